// SPDX-License-Identifier: Apache-2.0
#pragma once  // json_events.hpp: reads untrusted JSON as events with a path: no tree, a limit on nesting.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model.hpp"

namespace unshard_plan {

/// Base of the readers. `path()` holds the keys down to the value at hand, "" for an item of an array.
class json_events : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit json_events(std::string_view what) : what_(what) {}

  /// Throws unreadable where the text is no JSON, ends early, goes on after its end, or is nested too deeply.
  void parse(std::string_view text) {
    if (text.find('\0') != std::string_view::npos)
      fail("not valid JSON: it has a NUL byte.");  // the parser stops there
    nlohmann::json_sax<nlohmann::json>* const events = this;
    nlohmann::json::sax_parse(text.begin(), text.end(), events);
  }

 protected:
  const std::vector<std::string>& path() const { return path_; }

  virtual void enter(bool object) = 0;  // `path()` is that of the object or array
  virtual void leave() = 0;
  virtual void on_string(std::string& value) = 0;
  virtual void on_count(std::uint64_t value) = 0;  // a number that is an integer >= 0
  virtual void on_other() = 0;                     // true, false, and the other numbers
  virtual void on_null() { on_other(); }

  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw unreadable(unshard::detail::concat(what_, ": ", parts...));
  }

 private:
  static constexpr std::size_t max_depth = 127;  // as the reader of safetensors allows; the formats need 3

  bool open(bool object) {
    if (open_.size() == max_depth) fail("values are nested more than ", max_depth, " deep.");
    enter(object);
    open_.push_back(object);
    if (!object) path_.emplace_back();
    return true;
  }
  bool close() {
    if (!open_.back()) path_.pop_back();
    open_.pop_back();
    leave();
    return after_value();
  }
  bool after_value() {
    if (!open_.empty() && open_.back()) path_.pop_back();
    return true;
  }
  bool other() {
    on_other();
    return after_value();
  }

  bool null() final {
    on_null();
    return after_value();
  }
  bool boolean(bool) final { return other(); }
  bool number_integer(number_integer_t) final { return other(); }
  bool number_float(number_float_t, const string_t&) final { return other(); }
  bool binary(binary_t&) final { return other(); }
  bool number_unsigned(number_unsigned_t value) final {
    on_count(value);
    return after_value();
  }
  bool string(string_t& value) final {
    on_string(value);
    return after_value();
  }
  bool start_object(std::size_t) final { return open(true); }
  bool start_array(std::size_t) final { return open(false); }
  bool end_object() final { return close(); }
  bool end_array() final { return close(); }
  bool key(string_t& name) final {
    path_.push_back(std::move(name));
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) final {
    fail("not valid JSON at byte ", position, " of its text.");
  }

  std::string what_;
  std::vector<std::string> path_;
  std::vector<bool> open_;  // true: an object
};

}  // namespace unshard_plan
