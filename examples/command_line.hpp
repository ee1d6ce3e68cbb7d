// SPDX-License-Identifier: Apache-2.0
#pragma once  // command_line.hpp: what all programs share of CLI11: amounts with units, --help in 80 columns, plain
              // errors.

#include <CLI/CLI.hpp>
#include <cstddef>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "output_file.hpp"
#include "printable.hpp"
#include "units.hpp"

namespace examples {

namespace detail {

/// The words in lines of at most `width`; all but the first begin with `indent` spaces.
inline std::string wrapped(const std::string& text, std::size_t width, std::size_t indent) {
  std::istringstream words(text);
  std::string out;
  std::size_t used = 0;
  for (std::string word; words >> word;) {
    if (used > 0 && used + 1 + word.size() > width) {
      out += '\n' + std::string(indent, ' ');
      used = 0;
    }
    out += (used > 0 ? " " : "") + word;
    used += word.size() + (used > 0 ? 1 : 0);
  }
  return out;
}

class narrow_help : public CLI::Formatter {
 public:
  std::string make_option(const CLI::Option* option, bool positional) const override {
    constexpr std::size_t column = 22;
    std::string name = "  " + make_option_name(option, positional) + make_option_opts(option);
    name += name.size() + 2 > column ? '\n' + std::string(column, ' ') : std::string(column - name.size(), ' ');
    return name + wrapped(option->get_description(), 80 - column, column) + '\n';
  }
  std::string make_description(const CLI::App* app) const override {
    return wrapped(app->get_description(), 80, 0) + '\n';
  }
};

}  // namespace detail

/// Sets what --help and errors look like; call it before the options are added.
inline void prepare(CLI::App& app) {
  app.formatter(std::make_shared<detail::narrow_help>());
  app.get_help_ptr()->description("print this and end");
  app.failure_message([](const CLI::App* program, const CLI::Error& e) {
    return program->get_name() + ": " + printable(e.what(), 400) + "\nRun it with --help for what it takes.\n";
  });
}

/// An option whose text `parse` turns into a value; its bad_amount is an error that names the option.
template <class T, class Parse>
CLI::Option* add_amount(CLI::App& app, const std::string& name, T& value, const std::string& help, Parse parse) {
  return app.add_option_function<std::string>(
      name,
      [name, &value, parse](const std::string& text) {
        try {
          value = parse(text);
        } catch (const bad_amount& e) {
          throw CLI::ValidationError(name, e.what());
        }
      },
      help);
}

/// An option that is a number of bytes.
inline CLI::Option* add_bytes(CLI::App& app, const std::string& name, std::size_t& value, const std::string& help) {
  return add_amount(app, name, value, help, parse_bytes)->option_text("BYTES");
}

/// The same for several, one word each.
inline CLI::Option* add_bytes(CLI::App& app, const std::string& name, std::vector<std::size_t>& values,
                              const std::string& help) {
  return app
      .add_option_function<std::vector<std::string>>(
          name,
          [name, &values](const std::vector<std::string>& texts) {
            try {
              for (const std::string& text : texts) values.push_back(parse_bytes(text));
            } catch (const bad_amount& e) {
              throw CLI::ValidationError(name, e.what());
            }
          },
          help)
      ->option_text("BYTES ...");
}

/// An option that names a file to be written: an error now where that will not be possible.
inline CLI::Option* add_output(CLI::App& app, const std::string& name, std::string& path, const std::string& help) {
  const auto why_not = [](std::string& text) {
    return text.empty() || can_be_written(text) ? std::string() : in_quotes(text) + ": this file can't be written.";
  };
  return app.add_option(name, path, help)->check(CLI::Validator(why_not, "", "writable"))->option_text("FILE");
}

}  // namespace examples
