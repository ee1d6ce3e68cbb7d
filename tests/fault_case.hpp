// SPDX-License-Identifier: Apache-2.0
#pragma once  // fault_case.hpp: one run of a small model with one fault, and whether every rank was told the truth.

#include <array>
#include <cstddef>
#include <string>
#include <type_traits>
#include <unshard/comm/threads.hpp>
#include <unshard/testing/mock.hpp>
#include <unshard/unshard.hpp>
#include <utility>
#include <vector>

#include "mailbox.hpp"

namespace faults {

using namespace unshard;

enum class kind {
  // at an operation of one rank
  fail_before,
  fail_after,
  die,
  time_out,
  short_delay,
  long_delay,
  corrupt,
  out_of_order,
  // of one rank's caller
  body_throws,
  body_breaks,
  all_break,
  long_body,
  allocation,
  differs,
  short_shard,
  never_enters,
  after_write,
  unwritten
};
inline constexpr std::array names = {"fail_before",  "fail_after",  "die",          "time_out",    "short_delay",
                                     "long_delay",   "corrupt",     "out_of_order", "body_throws", "body_breaks",
                                     "all_break",    "long_body",   "allocation",   "differs",     "short_shard",
                                     "never_enters", "after_write", "unwritten"};
inline constexpr std::size_t kinds = names.size();
inline constexpr int differences = 8;  // of kind::differs
inline constexpr int deadline_ms = 1000;
inline constexpr std::size_t guard_bytes = 8;

enum class held_by { root, every_rank, spread };
inline constexpr std::array holders = {"root", "every_rank", "spread"};

enum class engine_kind { threads, mailbox };

struct setting {
  int ranks = 2;
  int access = 0;  // read, read_write, overwrite
  held_by holder = held_by::root;
  int in_flight = 1;
  engine_kind engine = engine_kind::threads;
};

struct fault {
  faults::kind kind = kind::body_throws;
  int victim = 0;
  std::size_t point = 0;  // an operation, a chunk, an allocation, ...
};

/// What the body of the victim throws.
struct body_failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class said {
  nothing,
  body,
  peer_failed,
  peer_timeout,
  write_back_failed,
  injected,
  died,
  out_of_memory,
  mismatch,
  bad_shard,
  unwritten,
  other
};

/// What one rank was told.
struct outcome {
  faults::said said = said::nothing;
  std::string text;
  int rank = -1;
  std::size_t chunk = static_cast<std::size_t>(-1);  // of plan_mismatch: the parameter
  std::size_t committed = 0;
  std::size_t wrong_bytes = 0;  // that the body saw
};

/// A parameter whose shard is followed by guard bytes.
class parameter {
 public:
  parameter(std::string name, any_layout layout, std::size_t size, int rank, std::size_t index)
      : name_(std::move(name)), layout_(std::move(layout)), size_(size), index_(index) {
    each(rank, [&](std::size_t at) {
      for (std::size_t b = 0; b < size_; ++b) bytes_.push_back(old_byte(at * size_ + b));
    });
    bytes_.insert(bytes_.end(), guard_bytes, std::byte{0xa5});
  }

  const any_layout& layout() const { return layout_; }
  std::size_t element_size() const { return size_; }
  std::span<std::byte> shard() { return std::span(bytes_).first(bytes_.size() - guard_bytes - cut); }
  std::string_view name() const { return name_; }
  void after_write() {
    if (fails_after_write) throw body_failure("after_write failed");
  }

  std::byte old_byte(std::size_t at) const { return static_cast<std::byte>(index_ * 53 + at * 7 + 1); }
  std::byte new_byte(std::size_t at) const { return old_byte(at) ^ std::byte{0xff}; }

  /// How many of this rank's bytes are old, new, neither; guards that changed count as neither.
  void count(int rank, std::array<std::size_t, 3>& bytes) const {
    std::size_t i = 0;
    each(rank, [&](std::size_t at) {
      for (std::size_t b = 0; b < size_; ++b, ++i) {
        const std::size_t value = at * size_ + b;
        ++bytes[bytes_[i] == old_byte(value) ? 0 : bytes_[i] == new_byte(value) ? 1 : 2];
      }
    });
    for (; i < bytes_.size(); ++i) bytes[2] += bytes_[i] != std::byte{0xa5};
  }

  bool fails_after_write = false;
  std::size_t cut = 0;  // bytes that the shard is too short

 private:
  friend class run;
  /// Flat numbers of the elements of a rank, in the order of its shard. Not the library's arithmetic.
  template <class F>
  void each(int rank, F f) const {
    const extents space = layout_.space();
    for (const box& b : layout_.boxes_of(rank)) {
      for (index_t flat = 0; flat < space.elements(); ++flat) {
        index_t rest = flat;
        bool inside = true;
        for (int d = space.dims(); d-- > 0; rest /= space[d]) {
          const index_t at = rest % space[d] - b.offset[d];
          inside = inside && at >= 0 && at < b.size[d];
        }
        if (inside) f(static_cast<std::size_t>(flat));
      }
    }
  }

  std::string name_;
  any_layout layout_;
  std::size_t size_;
  std::size_t index_;
  std::vector<std::byte> bytes_;
};

inline constexpr std::size_t chunk_count = 3;  // rounds

/// How many of each parameter there are: with spread every rank has a chunk of its own in every round.
inline std::size_t copies_of(const setting& s) {
  return s.holder == held_by::spread ? static_cast<std::size_t>(s.ranks) : 1;
}
inline std::size_t parameters_of(const setting& s) { return 4 * copies_of(s); }
/// The round of a parameter.
inline std::size_t chunk_of(const setting& s, std::size_t parameter) {
  return (std::min)(parameter / copies_of(s), std::size_t{2});
}

/// Three rounds: flat, by columns, and one with replicas beside one that a single rank owns.
inline std::vector<parameter> model(const setting& s, int rank) {
  const int ranks = s.ranks;
  std::vector<parameter> list;
  list.reserve(parameters_of(s) + 1);
  const auto add = [&](const char* name, const any_layout& layout, std::size_t size) {
    list.emplace_back(name + std::to_string(list.size()), layout, size, rank, list.size());
  };
  for (std::size_t i = 0; i < copies_of(s); ++i) add("flat", flat_shard({index_t{7}}, ranks), 4);
  for (std::size_t i = 0; i < copies_of(s); ++i) add("columns", dim_shard({3, 6}, 1, ranks), 2);
  for (std::size_t i = 0; i < copies_of(s); ++i) {
    add("copied", replicated({index_t{4}}, ranks), 2);
    add("owned", owned({index_t{5}}, ranks - 1, ranks), 4);  // over 16 bytes, for unwritten_piece
  }
  return list;
}

inline options options_of(const setting& s) {
  options o;
  const std::size_t copies = s.engine == engine_kind::threads ? 1 : s.holder == held_by::spread ? 3 : 2;
  o.budget = 48 * static_cast<std::size_t>(s.in_flight) * copies;
  o.alignment = 16;
  o.in_flight = s.in_flight;
  o.on = s.holder == held_by::root ? root(s.ranks - 1) : s.holder == held_by::every_rank ? every_rank : spread;
  o.timeout_ms = deadline_ms;
  return o;
}

/// One group of ranks that runs the model, with a fault or without.
class run {
 public:
  run(const setting& s, const fault* f) : setting_(s), fault_(f), world_(s.ranks) {
    const auto n = static_cast<std::size_t>(s.ranks);
    first.resize(n);
    second.resize(n);
    left.resize(n);
    held.resize(n);
    allocations.resize(n);
    for (int r = 0; r < s.ranks; ++r) models.push_back(model(s, r));
    if (f != nullptr) inject(*f);
  }

  void go(bool again) {
    again_ = again;
    const auto one = [&](auto& engine) { rank(engine); };
    if (setting_.engine == engine_kind::threads) {
      run_ranks(setting_.ranks, one);
    } else {
      run_mailbox(setting_.ranks, one);
    }
  }
  mock_world& world() { return world_; }

  std::vector<std::vector<parameter>> models, left;  // by rank: in use, and as the range with the fault left them
  std::vector<outcome> first, second;                // of the range with the fault, and of the one after it
  std::vector<std::size_t> held, allocations;

 private:
  void inject(const fault& f) {
    mock_fault m{.rank = f.victim, .operation = f.point, .byte = f.point};
    switch (f.kind) {
      case kind::fail_before:
        m.kind = fault_kind::fail_before;
        break;
      case kind::fail_after:
        m.kind = fault_kind::fail_after;
        break;
      case kind::die:
        m.kind = fault_kind::die;
        break;
      case kind::time_out:
        m.kind = fault_kind::time_out;
        break;
      case kind::short_delay:
      case kind::long_delay:
        m.kind = fault_kind::delay;
        m.delay_ms = f.kind == kind::short_delay ? deadline_ms / 2 : deadline_ms * 2;
        break;
      case kind::corrupt:
        m.kind = fault_kind::corrupt;
        break;
      case kind::out_of_order:
        m.kind = fault_kind::out_of_order;
        break;
      default:
        return;
    }
    world_.inject(m);
  }

  bool is(kind k, int r) const { return fault_ != nullptr && fault_->kind == k && fault_->victim == r; }

  template <class Engine>
  void rank(Engine& engine) {
    mock_communicator comm(engine, world_);
    const auto r = static_cast<std::size_t>(comm.rank());
    failing_memory<> memory;
    if (is(kind::allocation, comm.rank())) memory.fail_at(fault_->point);
    std::vector<parameter>& handles = models[r];
    options o = options_of(setting_);
    o.observer = comm;
    int access = setting_.access;
    if (is(kind::differs, comm.rank())) differ(handles, o, access);
    if (is(kind::short_shard, comm.rank())) handles[2 * copies_of(setting_)].cut = 1;
    if (is(kind::after_write, comm.rank())) handles[fault_->point].fails_after_write = true;
    if (!is(kind::never_enters, comm.rank())) first[r] = attempt(comm, handles, o, access, memory, true);
    left[r] = models[r];
    if (again_) {
      models[r] = model(setting_, comm.rank());
      memory.fail_at(failing_memory<>::never);
      o = options_of(setting_);
      o.observer = comm;
      second[r] = attempt(comm, models[r], o, setting_.access, memory, false);
    }
    held[r] = memory.held();
    allocations[r] = memory.allocations();
  }

  void differ(std::vector<parameter>& handles, options& o, int& access) const {
    switch (fault_->point) {
      case 0:
        handles.emplace_back("more", replicated({index_t{1}}, setting_.ranks), 1, fault_->victim, handles.size());
        break;
      case 1:
        std::swap(handles[0], handles[1]);
        break;
      case 2:
        handles[1].size_ = 1;
        break;
      case 3:
        handles[2] = parameter("other", owned({index_t{4}}, fault_->victim, setting_.ranks), 2, fault_->victim, 2);
        break;
      case 4:
        o.budget += 16 * static_cast<std::size_t>(o.in_flight);
        break;
      case 5:
        access = (access + 1) % 3;
        break;
      case 6:
        o.on = setting_.holder == held_by::root ? every_rank : root(0);
        break;
      default:
        handles.pop_back();
    }
  }

  template <class C>
  outcome attempt(C& comm, std::vector<parameter>& handles, const options& o, int access, failing_memory<>& memory,
                  bool faulty) {
    if (access == 0) return attempt_as(comm, handles, o, unshard::read, memory, faulty);
    if (access == 1) return attempt_as(comm, handles, o, read_write, memory, faulty);
    return attempt_as(comm, handles, o, overwrite, memory, faulty);
  }

  template <class C, class A>
  outcome attempt_as(C& comm, std::vector<parameter>& handles, const options& o, A access, failing_memory<>& memory,
                     bool faulty) {
    outcome out;
    try {
      auto range = chunks(handles, comm, access, o, memory);
      try {
        for (auto& chunk : range) {
          body(comm, handles, chunk, access, faulty, out);
          if (faulty && (is(kind::body_breaks, comm.rank()) || is_all_break()) && chunk.number() == fault_->point)
            break;
        }
      } catch (...) {
        out.committed = range.committed();
        throw;
      }
      out.committed = range.committed();
    } catch (const body_failure& e) {
      out.said = said::body, out.text = e.what();
    } catch (const injected_failure& e) {
      out.said = said::injected, out.text = e.what(), out.rank = e.rank;
    } catch (const write_back_failed& e) {
      out.said = said::write_back_failed, out.text = e.what(), out.chunk = e.chunk;
    } catch (const peer_failed& e) {
      out.said = said::peer_failed, out.text = e.what(), out.rank = e.rank, out.chunk = e.chunk;
    } catch (const peer_timeout& e) {
      out.said = said::peer_timeout, out.text = e.what(), out.rank = e.rank;
    } catch (const rank_died& e) {
      out.said = said::died, out.text = e.what();
    } catch (const out_of_memory& e) {
      out.said = said::out_of_memory, out.text = e.what();
    } catch (const plan_mismatch& e) {
      out.said = said::mismatch, out.text = e.what(), out.rank = e.rank, out.chunk = e.parameter;
    } catch (const bad_shard& e) {
      out.said = said::bad_shard, out.text = e.what();
    } catch (const unwritten_piece& e) {
      out.said = said::unwritten, out.text = e.what();
    } catch (const std::exception& e) {
      out.said = said::other, out.text = e.what();
    }
    return out;
  }
  bool is_all_break() const { return fault_ != nullptr && fault_->kind == kind::all_break; }

  template <class C, class Chunk, class A>
  void body(C& comm, const std::vector<parameter>& handles, Chunk& chunk, A, bool faulty, outcome& out) {
    const bool here = faulty && fault_ != nullptr && chunk.number() == fault_->point / 2;
    if (here && is(kind::body_throws, comm.rank()) && fault_->point % 2 == 0) throw body_failure("before the pieces");
    for (auto piece : chunk) {
      const parameter& p = handles[piece.index()];
      const auto start = static_cast<std::size_t>(piece.first()) * p.element_size();
      if (faulty && is(kind::unwritten, comm.rank()) && chunk.number() == fault_->point && piece.bytes().size() >= 16)
        continue;
      for (std::size_t i = 0; i < piece.bytes().size(); ++i) {
        if constexpr (A::gathers) out.wrong_bytes += piece.bytes()[i] != p.old_byte(start + i);
        if constexpr (A::writes) piece.bytes()[i] = p.new_byte(start + i);
      }
    }
    if (here && is(kind::body_throws, comm.rank())) throw body_failure("after the pieces");
    if (faulty && is(kind::long_body, comm.rank()) && chunk.number() == fault_->point) comm.sleep_ms(deadline_ms * 2);
  }

  setting setting_;
  const fault* fault_;
  mock_world world_;
  bool again_ = false;
};

/// The words of a case, to find it again.
inline std::string text_of(const setting& s, const fault& f) {
  return std::string(names[static_cast<std::size_t>(f.kind)]) + " on rank " + std::to_string(f.victim) + " at " +
         std::to_string(f.point) + "; " + std::to_string(s.ranks) + " ranks, access " + std::to_string(s.access) +
         ", " + holders[static_cast<std::size_t>(s.holder)] + ", in_flight " + std::to_string(s.in_flight) +
         ", engine " + std::to_string(static_cast<int>(s.engine));
}

}  // namespace faults
