// SPDX-License-Identifier: Apache-2.0
#pragma once  // memory_svg.hpp: memory timelines as a picture that follows the reader's light or dark scheme.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "readable.hpp"
#include "timeline.hpp"

namespace examples {

/// One line of the picture: at most 3, told apart by colour and listed with their peaks.
struct memory_curve {
  std::string label;
  const memory_timeline* timeline;
};

namespace detail {

/// 1, 2 or 5 times a power of ten, so that `range` has at most 5 of them.
inline double tick_step(double range) {
  const double power = std::pow(10.0, std::floor(std::log10(range / 5)));
  for (double factor : {1.0, 2.0, 5.0}) {
    if (range / (power * factor) <= 5) return power * factor;
  }
  return power * 10;
}

class svg_chart {
 public:
  svg_chart(std::ostream& out, std::span<const memory_curve> curves, std::size_t budget)
      : out_(out), curves_(curves), budget_(budget) {
    for (const memory_curve& c : curves) {
      seconds_ = std::max(seconds_, c.timeline->seconds());
      peak_ = std::max(peak_, c.timeline->peak());
    }
    seconds_ = std::max(seconds_ * 1.02, 1e-3);
  }

  void draw(const std::string& title, const std::string& subtitle) {
    // Where all but one curve would vanish in the axis, a second panel shows the lowest part again.
    const bool zoom = budget_ > 0 && peak_ > 8 * budget_;
    const int legend = 80 + 20 * static_cast<int>(curves_.size());
    const int height = legend + (zoom ? 130 + 54 + 84 : 200) + 36;
    out_ << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << width << ' ' << height
         << "\" role=\"img\" font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" "
            "font-size=\"13\">\n<title>"
         << title << "</title>\n"
         << style;
    out_ << "<rect class=\"ground\" width=\"" << width << "\" height=\"" << height << "\" rx=\"8\"/>\n";
    text(left, 28, "head", "start", title);
    for (std::size_t i = 0; i < curves_.size(); ++i) {
      const int y = 54 + 20 * static_cast<int>(i);
      out_ << "<rect class=\"c" << i << " swatch\" x=\"" << left << "\" y=\"" << y - 10
           << "\" width=\"18\" height=\"10\"/>\n";
      const double seconds = curves_[i].timeline->seconds();
      char time[48];
      std::snprintf(time, sizeof time, seconds < 0.1 ? ", %.2f ms" : ", %.2f s",
                    seconds < 0.1 ? seconds * 1e3 : seconds);
      text(left + 26, y, "", "start", curves_[i].label + ": peak " + readable(curves_[i].timeline->peak()) + time);
    }
    if (zoom) {
      panel(legend, 130, static_cast<double>(peak_) * 1.08, subtitle, false);
      panel(legend + 184, 84, static_cast<double>(budget_) * 2.2, "the lowest part of it, enlarged", true);
    } else {
      panel(legend, 200, static_cast<double>(std::max(peak_, budget_)) * 1.15, subtitle, true);
    }
    out_ << "</svg>\n";
  }

 private:
  static constexpr int width = 760;
  static constexpr int left = 84;
  static constexpr int plot = width - left - 28;
  static constexpr const char* style =
      "<style>\n"
      ".ground{fill:#fff}text{fill:#1f2328}.head{font-size:15px;font-weight:600}.soft{fill:#59636e}\n"
      ".halo{paint-order:stroke;stroke:#fff;stroke-width:5px;stroke-linejoin:round}\n"
      ".grid{stroke:#d1d9e0}.axis{stroke:#59636e}.budget{stroke:#1f2328;stroke-dasharray:6 4}\n"
      ".c0{fill:#cf222e;stroke:#cf222e}.c1{fill:#8250df;stroke:#8250df}.c2{fill:#0969da;stroke:#0969da}\n"
      ".area{fill-opacity:.18;stroke-width:1.5;stroke-linejoin:round}.swatch{fill-opacity:.35;stroke-width:1.5}\n"
      "@media (prefers-color-scheme:dark){\n"
      ".ground{fill:#0d1117}text{fill:#f0f6fc}.soft{fill:#9198a1}.halo{stroke:#0d1117}\n"
      ".grid{stroke:#30363d}.axis{stroke:#9198a1}.budget{stroke:#f0f6fc}\n"
      ".c0{fill:#ff7b72;stroke:#ff7b72}.c1{fill:#be8fff;stroke:#be8fff}.c2{fill:#4493f8;stroke:#4493f8}\n"
      "}</style>\n";

  void text(double x, double y, const char* kind, const char* anchor, const std::string& words) {
    out_ << "<text x=\"" << x << "\" y=\"" << y << "\" class=\"" << kind << "\" text-anchor=\"" << anchor << "\">"
         << words << "</text>\n";
  }

  /// One plot, from `top` down, `height` pixels for [0, most] bytes.
  void panel(int top, int height, double most, const std::string& caption, bool last) {
    const auto y_of = [&](double bytes) { return top + height - bytes / most * height; };
    const int bottom = top + height;
    if (!caption.empty()) text(left, top - 9, "soft", "start", caption);

    double unit = 1;
    while (most / unit >= 1024) unit *= 1024;
    for (double at = 0; at <= most / unit; at += tick_step(most / unit)) {
      const double y = y_of(at * unit);
      out_ << "<line class=\"grid\" x1=\"" << left << "\" x2=\"" << left + plot << "\" y1=\"" << y << "\" y2=\"" << y
           << "\"/>\n";
      text(left - 8, y + 4, "soft", "end", readable(at * unit));
    }
    out_ << "<clipPath id=\"p" << top << "\"><rect x=\"" << left << "\" y=\"" << top << "\" width=\"" << plot
         << "\" height=\"" << height << "\"/></clipPath>\n<g clip-path=\"url(#p" << top << ")\">\n";
    for (std::size_t i = 0; i < curves_.size(); ++i) area(i, most, y_of, bottom);
    out_ << "</g>\n";
    if (budget_ > 0) {
      const double y = y_of(static_cast<double>(budget_));
      out_ << "<line class=\"budget\" x1=\"" << left << "\" x2=\"" << left + plot << "\" y1=\"" << y << "\" y2=\"" << y
           << "\"/>\n";
      if (last) text(left + plot, y - 7, "halo", "end", "the budget: " + readable(budget_));
    }
    out_ << "<line class=\"axis\" x1=\"" << left << "\" x2=\"" << left + plot << "\" y1=\"" << bottom << "\" y2=\""
         << bottom << "\"/>\n";
    for (double at = 0; at <= seconds_; at += tick_step(seconds_)) {
      char label[32];
      std::snprintf(label, sizeof label, seconds_ < 0.1 ? "%g ms" : "%g s", seconds_ < 0.1 ? at * 1e3 : at);
      text(left + at / seconds_ * plot, bottom + 18, "soft", "middle", label);
    }
  }

  /// A timeline as steps, one for each pixel: the most that was held in its time.
  template <class Y>
  void area(std::size_t curve, double most, Y y_of, int bottom) {
    const memory_timeline& line = *curves_[curve].timeline;
    const std::vector<memory_timeline::step>& steps = line.steps();
    const int end = static_cast<int>(std::ceil(line.seconds() / seconds_ * plot));
    std::size_t next = 0;
    std::size_t held = 0;
    std::size_t drawn = 0;
    out_ << "<path class=\"c" << curve << " area\" d=\"M" << left << ' ' << bottom;
    for (int x = 0; x < end; ++x) {
      std::size_t here = held;
      while (next < steps.size() && steps[next].seconds < (x + 1) * seconds_ / plot) {
        held = steps[next++].bytes;
        here = std::max(here, held);
      }
      if (here == drawn) continue;
      drawn = here;
      out_ << 'H' << left + x << 'V' << y_of(std::min(static_cast<double>(here), most * 1.1));
    }
    out_ << 'H' << left + end << 'V' << bottom << "Z\"/>\n";
  }

  std::ostream& out_;
  std::span<const memory_curve> curves_;
  std::size_t budget_;
  double seconds_ = 0;
  std::size_t peak_ = 0;
};

}  // namespace detail

/// Draws up to 3 timelines over one time axis, and the budget as a line (0: none). The texts go in as they are: no
/// markup in them.
inline void write_memory_svg(std::ostream& out, const std::string& title, const std::string& subtitle,
                             std::span<const memory_curve> curves, std::size_t budget) {
  detail::svg_chart(out, curves, budget).draw(title, subtitle);
}

}  // namespace examples
