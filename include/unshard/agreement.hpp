// SPDX-License-Identifier: Apache-2.0
#pragma once  // agreement.hpp: how the ranks make sure that they do the same thing, and all learn of a failure.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <unshard/base/later.hpp>
#include <unshard/communicator.hpp>
#include <unshard/error.hpp>
#include <unshard/plan.hpp>
#include <vector>

namespace unshard {
inline namespace v0 {

/// The least of what the ranks give: the budget that all of them can spare. Collective; one exchange of 8 bytes.
/// Throws what the communicator's exchange throws.
template <communicator C>
std::size_t agreed_budget(C& comm, std::size_t bytes, int timeout_ms = 600'000) {
  const std::uint64_t mine = bytes;
  std::size_t least = bytes;
  std::vector<detail::later<std::uint64_t, C>> all(static_cast<std::size_t>(comm.size()));
  comm.exchange(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)), timeout_ms);
  for (const std::uint64_t theirs : all) {
    if (theirs < least) least = detail::to_size(static_cast<std::int64_t>(theirs));  // it fits: it is less than ours
  }
  return least;
}

namespace detail {

/// What a rank says: where it is in the protocol, how it fares there, and one number.
enum class stage : std::uint8_t { opening = 1, search, shifts, prepared, chunk_end };
enum class saying : std::uint8_t { done = 1, left, failed };

struct vote_word {
  std::uint64_t head = 0;  // stage, saying, chunk
  std::uint64_t value = 0;

  vote_word() = default;
  vote_word(stage where, saying what, std::size_t chunk, std::uint64_t number)
      : head(std::uint64_t{static_cast<std::uint8_t>(where)} << 56 |
             std::uint64_t{static_cast<std::uint8_t>(what)} << 48 | (chunk & 0xffff'ffff'ffffULL)),
        value(number) {}
  saying says() const { return static_cast<saying>(head >> 48 & 0xff); }
  std::uint64_t place() const { return head & 0xff00'ffff'ffff'ffffULL; }
};
static_assert(sizeof(vote_word) == 16);

/// What came of a vote.
struct verdict {
  bool all_done = true;
  bool all_left = true;
  std::uint64_t sum = 0;  // of all values, modulo 2^64
  int culprit = -1;       // the first rank that failed, else the first that left
  std::string message;    // what the culprit said, if it failed
};

inline std::uint64_t digest_of_text(std::uint64_t seed, std::string_view text) {
  std::uint64_t d = mix(seed, std::uint64_t{text.size()});
  while (!text.empty()) {
    std::uint64_t part = 0;
    const std::size_t n = std::min<std::size_t>(8, text.size());
    std::memcpy(&part, text.data(), n);
    d = mix(d, part);
    text.remove_prefix(n);
  }
  return d;
}

/// All that a range or scope was asked for but the handles, and what the engine can do now, as text: hashed for the
/// opening, shown where it differs.
inline std::string settings_text(std::string_view access, const run_options& run, const chunk_plan& plan,
                                 const capabilities& c) {
  const plan_options& o = plan.made_for();
  return concat("access ", access, ", on ",
                run.on.all()       ? std::string("every_rank")
                : run.on.spreads() ? std::string("spread")
                                   : concat("root ", run.on.root()),
                ", budget ", o.budget, ", capacity ", plan.capacity(), ", packing ",
                o.packing == packing::in_order   ? "in_order"
                : o.packing == packing::best_fit ? "best_fit"
                                                 : "balanced",
                ", cut ",
                o.cut == cut::never       ? "never"
                : o.cut == cut::oversized ? "oversized"
                                          : "anywhere",
                ", alignment ", o.alignment, ", in_flight ", o.in_flight, ", first_round ", run.first_round,
                ", verify ", run.verify ? "on" : "off", ", regions ", c.regions ? "on" : "off", ", max_operations ",
                c.max_operations, ", max_bytes ", c.max_bytes, ", staging ", c.staging);
}

/// The items of two lists "a 1, b 2" that differ, side by side.
inline std::string differing_items(std::string_view left, std::string_view right) {
  const auto item = [](std::string_view& text) {
    const std::size_t comma = (std::min)(text.find(", "), text.size());
    const std::string_view head = text.substr(0, comma);
    text.remove_prefix((std::min)(text.size(), comma + 2));
    return head;
  };
  std::string out;
  while (!left.empty() || !right.empty()) {
    const std::string_view a = item(left);
    const std::string_view b = item(right);
    if (a != b) out += concat(out.empty() ? "" : "; ", a, " against ", b);
  }
  return out;
}

/// Ranks are at different places of the protocol: nothing more can be agreed on over this communicator.
class [[gnu::visibility("default")]] out_of_step : public plan_mismatch {
 public:
  using plan_mismatch::plan_mismatch;
};

/// The words between the ranks of one range or scope.
template <communicator C>
class agreement {
  template <class T>
  using vector = std::vector<later<T, C>>;

 public:
  static constexpr std::size_t message_bytes = 256;

  agreement(C& comm, int timeout_ms)
      : comm_(comm), timeout_ms_(timeout_ms), words_(static_cast<std::size_t>(comm.size())) {}

  /// Says how this rank's own planning, checks and allocation went, and compares digests where all went well.
  /// `prefix(k)` is the digest of the first k parameters, `describe(k)` the k-th in words. A verdict with a culprit
  /// says that some rank failed; plan_mismatch is thrown on all ranks.
  template <class Prefix, class Describe>
  verdict open(bool failed, std::string_view failure, std::string_view settings, std::size_t parameters,
               std::uint64_t digest, Prefix prefix, Describe describe) {
    const std::uint64_t asked = digest_of_text(0x5e7, settings);
    say(vote_word(stage::opening, failed ? saying::failed : saying::done, 0, mix(asked, digest)));
    check_places("the opening of a range or scope");
    verdict v = count(failure);
    if (v.culprit >= 0 || first_different([](const vote_word& w) { return w.value; }) == 0) return v;
    search(settings, asked, parameters, prefix, describe);
  }

  /// Behind an opening that all agreed on: the least of the ranks' numbers.
  std::uint64_t least(std::uint64_t mine) {
    say(vote_word(stage::shifts, saying::done, 0, mine));
    check_places("the end of an opening");
    for (const vote_word& w : words_) mine = (std::min)(mine, w.value);
    return mine;
  }
  /// And how it went to make what depends on that.
  verdict prepared(bool failed, std::string_view failure) {
    say(vote_word(stage::prepared, failed ? saying::failed : saying::done, 0, 0));
    check_places("the end of an opening");
    return count(failure);
  }

  /// The end of a chunk. Where any rank says `failed`, a second exchange tells why.
  verdict vote(saying what, std::size_t chunk, std::uint64_t value, std::string_view failure) {
    say(vote_word(stage::chunk_end, what, chunk, value));
    check_places("the end of a chunk");
    return count(failure);
  }

 private:
  void say(const vote_word& w) {
    comm_.exchange(std::as_bytes(std::span(&w, 1)), std::as_writable_bytes(std::span(words_)), timeout_ms_);
  }

  /// Ranks that run different ranges over one communicator can't be served; all of them see it in the same words.
  void check_places(std::string_view where) {
    for (std::size_t r = 1; r < words_.size(); ++r) {
      if (words_[r].place() != words_[0].place())
        throw out_of_step(
            concat("unshard: rank ", r, " and rank 0 are at different places of the protocol; rank ", comm_.rank(),
                   " is at ", where, ". Open ranges and scopes over one communicator in the same order on every rank."),
            plan_mismatch::npos, static_cast<int>(r));
    }
  }

  verdict count(std::string_view failure) {
    verdict v;
    bool any_failed = false;
    for (const vote_word& w : words_) any_failed = any_failed || w.says() == saying::failed;
    for (std::size_t r = 0; r < words_.size(); ++r) {
      const saying s = words_[r].says();
      v.all_done = v.all_done && s == saying::done;
      v.all_left = v.all_left && s == saying::left;
      v.sum += words_[r].value;
      if (v.culprit < 0 && s == (any_failed ? saying::failed : saying::left)) v.culprit = static_cast<int>(r);
    }
    if (any_failed) v.message = without_rank(tell(failure)[static_cast<std::size_t>(v.culprit)]);
    return v;
  }

  /// One text of every rank, of at most 255 bytes: longer ones lose their middle.
  vector<std::string> tell(std::string_view mine) {
    char text[message_bytes] = {};
    shortened(mine, message_bytes - 1).copy(text, message_bytes - 1);
    vector<char> all(message_bytes * words_.size());
    comm_.exchange(std::as_bytes(std::span(text)), std::as_writable_bytes(std::span(all)), timeout_ms_);
    vector<std::string> texts;
    for (std::size_t r = 0; r < words_.size(); ++r) {
      const std::string_view from(all.data() + r * message_bytes, message_bytes);
      texts.emplace_back(from.substr(0, from.find('\0')));
    }
    return texts;
  }

  /// The same of at most 510 bytes, for texts whose difference may stand anywhere.
  vector<std::string> tell_long(std::string_view mine) {
    const std::string text = shortened(mine, 2 * (message_bytes - 1));
    vector<std::string> texts = tell(std::string_view(text).substr(0, message_bytes - 1));
    const vector<std::string> rest = tell(std::string_view(text).substr((std::min)(text.size(), message_bytes - 1)));
    for (std::size_t r = 0; r < texts.size(); ++r) texts[r] += rest[r];
    return texts;
  }

  template <class What>
  int first_different(What what) const {
    for (std::size_t r = 1; r < words_.size(); ++r) {
      if (what(words_[r]) != what(words_[0])) return static_cast<int>(r);
    }
    return 0;
  }

  /// Every rank takes the same road, since all see the same words; about log2 of the number of parameters of them.
  template <class Prefix, class Describe>
  [[noreturn]] void search(std::string_view settings, std::uint64_t asked, std::size_t parameters, Prefix prefix,
                           Describe describe) {
    const auto digest = [](const vote_word& w) { return w.value; };
    const auto number = [](const vote_word& w) { return w.head & 0xffff'ffff'ffffULL; };
    say(vote_word(stage::search, saying::done, parameters, asked));
    if (const int other = first_different(digest); other != 0) {
      const vector<std::string> texts = tell_long(settings);
      throw plan_mismatch(concat("unshard: the ranks ask for different things: ",
                                 differing_items(texts[0], texts[static_cast<std::size_t>(other)]),
                                 " [rank 0 against rank ", other, "]. Give all ranks equal options and access."),
                          plan_mismatch::npos, other);
    }
    int culprit = first_different(number);
    std::size_t low = 0;  // so many parameters are equal on all ranks
    std::size_t high = parameters;
    for (const vote_word& w : words_) high = (std::min)(high, static_cast<std::size_t>(number(w)));
    const std::size_t shortest = high;
    say(vote_word(stage::search, saying::done, high, prefix(high)));
    if (const int other = first_different(digest); other != 0) {
      culprit = other;
      while (high - low > 1) {
        const std::size_t middle = low + (high - low) / 2;
        say(vote_word(stage::search, saying::done, middle, prefix(middle)));
        const int differs = first_different(digest);
        if (differs != 0) culprit = differs;
        (differs != 0 ? high : low) = middle;
      }
    } else {
      low = shortest;
    }
    const vector<std::string> texts =
        tell_long(low < parameters ? describe(low) : concat("nothing: it has only ", parameters, " parameters"));
    throw plan_mismatch(concat("unshard: parameter ", low, " differs: ", texts[0], " [rank 0] against ",
                               texts[static_cast<std::size_t>(culprit)], " [rank ", culprit,
                               "]. List the same parameters in the same order on every rank."),
                        low, culprit);
  }

  C& comm_;
  int timeout_ms_;
  vector<vote_word> words_;
};

}  // namespace detail

}  // namespace v0
}  // namespace unshard
