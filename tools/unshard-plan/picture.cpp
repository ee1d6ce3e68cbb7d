// SPDX-License-Identifier: Apache-2.0
// picture.cpp: the chunks of a plan as an SVG: a row a chunk, its pieces in it, the capacity as the right edge.

#include <algorithm>
#include <ostream>

#include "report.hpp"

namespace unshard_plan {
namespace {

constexpr int left = 56;    // pixels, for the numbers of the chunks
constexpr int width = 840;  // of a full chunk
constexpr int top = 64;     // for the heading
constexpr std::size_t most_rows = 2000;

/// Printable text for an SVG: valid UTF-8, without controls and markup, so that any name leaves it well-formed.
std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '&' || c == '<' || c == '>') {
      out += c == '&' ? "&amp;" : c == '<' ? "&lt;" : "&gt;";
    } else {
      out += c;
    }
  }
  return out;
}

struct drawn_piece {
  double from;  // pixels
  double to;
  std::size_t first;  // indices of pieces
  std::size_t count;
};

/// The pieces of a chunk in pixels; neighbours too narrow to see are drawn as one.
std::vector<drawn_piece> measured(const chunk& c, double pixels_per_byte) {
  std::vector<drawn_piece> list;
  for (std::size_t i = 0; i < c.pieces.size(); ++i) {
    const auto from = static_cast<double>(c.pieces[i].offset) * pixels_per_byte;
    const auto to = static_cast<double>(c.pieces[i].offset + c.pieces[i].bytes) * pixels_per_byte;
    if (!list.empty() && to - list.back().from < 1.5) {
      list.back().to = to;
      ++list.back().count;
    } else {
      list.push_back({from, to, i, 1});
    }
  }
  return list;
}

bool is_cut(const report& r, const unshard::planned_piece& p) {
  return p.elements != r.tensors[p.parameter].shape.elements();
}

void draw_row(std::ostream& out, const report& r, std::size_t index, int y, int height) {
  const chunk& c = r.chunks[index];
  const double scale = r.capacity == 0 ? 0.0 : width / static_cast<double>(r.capacity);
  out << "<rect class='room' x='" << left << "' y='" << y << "' width='" << width << "' height='" << height << "'/>\n";
  std::size_t shade = 0;
  for (const drawn_piece& d : measured(c, scale)) {
    const unshard::planned_piece& p = c.pieces[d.first];
    const char* kind = d.count > 1 ? "many" : is_cut(r, p) ? "cut" : ++shade % 2 == 1 ? "even" : "odd";
    out << "<rect class='" << kind << "' x='" << left + d.from << "' y='" << y << "' width='"
        << std::max(0.5, d.to - d.from - (d.to - d.from > 3 ? 1 : 0)) << "' height='" << height << "'><title>chunk "
        << index << ": ";
    if (d.count > 1) {
      out << d.count << " tensors from " << escaped(printable(r.tensors[p.parameter].name)) << " on";
    } else {
      out << escaped(printable(r.tensors[p.parameter].name)) << ", " << short_bytes(p.bytes);
      if (is_cut(r, p)) out << " from element " << p.first << " on";
    }
    out << "</title></rect>\n";
  }
}

}  // namespace

void print_svg(std::ostream& out, const report& r, const request& what) {
  const std::size_t rows = std::min(r.chunks.size(), most_rows);
  const int height = rows <= 40 ? 14 : rows <= 120 ? 7 : rows <= 400 ? 3 : 2;
  const int gap = height > 5 ? 2 : height > 2 ? 1 : 0;
  const auto bottom = top + static_cast<int>(rows) * (height + gap);
  const int total = bottom + 44;

  // Colours of Okabe and Ito, which colour-blind people tell apart; the text follows the reader's scheme.
  out << "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 " << left + width + 16 << ' ' << total << "' width='"
      << left + width + 16 << "' height='" << total << "' font-family='system-ui, sans-serif' font-size='12'>\n"
      << "<style>\n"
         ".even{fill:#0072b2}.odd{fill:#56b4e9}.many{fill:#009e73}.cut{fill:#e69f00}\n"
         "text{fill:#222}.room{fill:#e8e8e8}.ground{fill:#fff}\n"
         "@media (prefers-color-scheme: dark){text{fill:#ddd}.room{fill:#333}.ground{fill:#16181d}}\n"
         "</style>\n"
      << "<rect class='ground' width='100%' height='100%'/>\n"
      << "<text x='" << left << "' y='22' font-size='15' font-weight='600'>" << r.chunks.size()
      << (r.chunks.size() == 1 ? " chunk" : " chunks") << " of at most " << short_bytes(r.capacity) << " instead of "
      << short_bytes(r.summary.bytes) << " at once</text>\n"
      << "<text x='" << left << "' y='42'>" << escaped(examples::printable(what.model, 60)) << ", " << r.tensors.size()
      << (r.tensors.size() == 1 ? " tensor; " : " tensors; ") << name_of(what.options.packing) << ", cut "
      << name_of(what.options.cut) << "; " << percent(r.summary.utilisation) << " % full, peak "
      << short_bytes(r.summary.peak) << "</text>\n";

  const std::size_t label_every = height >= 14 ? 1 : height >= 7 ? 5 : 50;
  for (std::size_t i = 0; i < rows; ++i) {
    const int y = top + static_cast<int>(i) * (height + gap);
    if (i % label_every == 0)
      out << "<text x='" << left - 6 << "' y='" << y + std::max(9, height - 3) << "' text-anchor='end' font-size='10'>"
          << i << "</text>\n";
    draw_row(out, r, i, y, height);
  }

  int x = left;
  const auto legend = [&](const char* kind, const char* text, int wide) {
    out << "<rect class='" << kind << "' x='" << x << "' y='" << bottom + 16 << "' width='12' height='12'/><text x='"
        << x + 18 << "' y='" << bottom + 26 << "'>" << text << "</text>\n";
    x += wide;
  };
  legend("even", "", 12);
  legend("odd", "whole tensors", 130);
  legend("many", "several small ones", 160);
  legend("cut", "a part of one", 130);
  legend("room", "room left", 110);
  if (rows < r.chunks.size())
    out << "<text x='" << x << "' y='" << bottom + 26 << "'>" << r.chunks.size() - rows << " more chunks</text>\n";
  out << "</svg>\n";
}

}  // namespace unshard_plan
