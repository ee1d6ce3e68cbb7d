#pragma once  // session.hpp: one range or scope from its opening to its end: the order in which everything happens.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <unshard/agreement.hpp>
#include <unshard/detail/buffers.hpp>
#include <unshard/detail/fill.hpp>
#include <unshard/detail/handles.hpp>
#include <unshard/detail/open_scopes.hpp>
#include <unshard/detail/piece.hpp>
#include <unshard/detail/verify.hpp>
#include <unshard/memory.hpp>
#include <unshard/schedule.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// The text of an exception, for the ranks that did not throw it.
inline std::string text_of(const std::exception_ptr& e) {
  try {
    std::rethrow_exception(e);
  } catch (const std::exception& known) {
    return known.what();
  } catch (...) {
    return "an exception that is no std::exception";
  }
}

/// One range of chunks [first, last) of a plan. `R` as the caller passed the handles, `A` the access.
///
/// A chunk lives in slot i % in_flight. At the end of body i, in this order: wait for write-back i - 1; make all that
/// may throw on one rank alone; vote; launch write-back i; where its slot is needed next, wait for it; launch the
/// gathers that have a free slot; wait for gather i + 1. So at most one write-back is ever under way, none during a
/// vote, and every rank has launched gather i before it says a word about chunk i.
template <class R, communicator C, class A, memory_resource M>
class session {
 public:
  using byte = std::conditional_t<A::writes, std::byte, const std::byte>;
  using chunk_type = basic_chunk<byte>;
  static constexpr std::size_t to_the_end = static_cast<std::size_t>(-1);

  /// `plan` null: one is made, of these options. `only` says which chunk a scope is for. Collective; throws as
  /// documented at chunks().
  session(const chunk_plan* plan, R&& handles, C& comm, const options& o, M& memory, std::size_t only = to_the_end)
      : handles_(static_cast<R&&>(handles)),
        comm_(comm),
        options_(o),
        plan_(plan),
        buffers_(memory),
        words_(comm, o.timeout_ms < 0 ? options().timeout_ms : o.timeout_ms) {
    std::exception_ptr failure;
    try {
      prepare(only);
    } catch (...) {
      failure = std::current_exception();
    }
    agree(failure);
    if (next_ == last_) end();
    emit(event_kind::opened, next_);
    transport([&] { launch_gathers(); });
  }
  session(const session&) = delete;
  session& operator=(const session&) = delete;
  /// Takes part in the vote of the chunk in hand as `left`, at most once and bounded by timeout_ms; errors go to the
  /// observer.
  ~session() {
    leave();
    if (must_keep_memory()) buffers_.abandon();
  }

  bool ended() const { return ended_; }
  std::size_t committed() const { return committed_; }
  const chunk_plan& plan() const { return *plan_; }
  chunk_type& current() { return state(current_).chunk; }

  /// Waits for the next chunk; the body may run. Not to be called when ended().
  void begin_chunk() {
    current_ = next_;
    if (deferred_) return end_chunk();  // says `failed`, and throws
    transport([&] { drain([&] { return state(current_).gathered; }); });
    chunk_state& s = state(current_);
    const std::size_t slot = slot_of(current_);
    if (!A::gathers) buffers_.reopen(slot);
    if constexpr (!A::gathers && is_host_memory<M>) {
      if (holds_ && options_.verify) paint(buffers_.chunk(slot), s.end);
    }
    emit(event_kind::chunk_begun, current_);
  }

  /// The body has ended: votes, writes back, goes on to the next chunk if there is one.
  void end_chunk() {
    transport([&] { drain_write_back(); });
    std::uint64_t sums = 0;
    std::exception_ptr failure = std::exchange(deferred_, nullptr);
    try {
      if (!failure) sums = finish_body();
    } catch (...) {
      failure = std::current_exception();
    }
    emit(event_kind::vote_begun, current_);
    verdict v;
    const std::string said = failure ? text_of(failure) : std::string();
    transport([&] { v = words_.vote(failure ? saying::failed : saying::done, current_, sums, said); });
    if (!v.all_done || v.sum != 0) {
      if (failure) {
        try {
          give_up();
        } catch (...) {  // this rank's own exception is the one that tells more
        }
        std::rethrow_exception(failure);
      }
      give_up();
      if (v.all_done)
        throw replicas_differ(concat("unshard: in chunk ", current_,
                                     " the ranks wrote different bytes to replicas of one part; nothing was written. "
                                     "Under every_rank write equal values on every rank. ",
                                     here()),
                              current_);
      throw peer_failed(v.message.empty() ? concat("unshard: rank ", v.culprit, " left chunk ", current_,
                                                   " before its end; nothing of it was written. ", here())
                                          : concat("unshard: rank ", v.culprit, " failed in chunk ", current_,
                                                   "; nothing of it was written: ", v.message, ' ', here()),
                        v.culprit, current_);
    }
    emit(event_kind::voted, current_);
    ++next_;
    transport([&] { write_back_and_go_on(); });
    if (next_ == last_) {
      end();
      if (deferred_) std::rethrow_exception(std::exchange(deferred_, nullptr));
    }
  }

  /// Ends early: says `left` at the chunk in hand. Never throws.
  void leave() noexcept {
    if (ended_) return;
    try {
      transport([&] { drain_write_back(); });
      verdict v;
      transport([&] { v = words_.vote(saying::left, next_, 0, {}); });
      give_up();
      if (!v.all_left && !v.message.empty())
        emit(event_kind::failed, next_, concat("rank ", v.culprit, " failed in chunk ", next_, ": ", v.message));
    } catch (const std::exception& e) {
      emit(event_kind::failed, next_, e.what());
    } catch (...) {
      emit(event_kind::failed, next_, "an exception that is no std::exception");
    }
    ended_ = true;
    scope_.close();
  }

 private:
  using handle = typename handle_list<R>::handle;
  using batch_type = batch_of<C>;
  using completion_type = completion_of<C>;
  static constexpr bool has_after_write = A::writes && requires(handle & h) { traits_of<handle>::after_write(h); };

  /// What is known of a chunk between its preparation and its commit. One more of them than slots.
  struct chunk_state {
    std::size_t number = to_the_end;
    std::size_t end = 0;  // bytes used of the slot
    bool gathered = false;
    basic_chunk<byte> chunk;
    std::vector<planned_piece> pieces;
    std::vector<std::byte*> shards;
    std::vector<batch_type> gather, write_back;
    std::uint64_t checksum_weight = 0;
    std::vector<std::pair<strided_block, std::uint64_t>> replicated;  // own parts that others hold too, with weights
  };
  struct under_way {
    completion_type done;
    std::size_t chunk;
    bool writes;
    bool last;  // of its movement
  };

  chunk_state& state(std::size_t chunk) { return states_[chunk % states_.size()]; }
  std::size_t slot_of(std::size_t chunk) const { return chunk % slots_; }
  std::string here() const { return concat("[rank ", comm_.rank(), " of ", comm_.size(), ']'); }

  // ---- the opening

  void prepare(std::size_t only) {
    const options run = options_;
    if (plan_ == nullptr) made_.push_back(make_plan(handles_.get(), run, capabilities_of(comm_)));
    const bool replayed = plan_ != nullptr;
    if (!replayed) plan_ = &made_.front();
    options_ = plan_->made_for();  // what shaped the plan holds
    options_.on = run.on;
    options_.timeout_ms = run.timeout_ms;
    options_.first_chunk = only == to_the_end ? run.first_chunk : only;
    options_.observer = run.observer;
    options_.verify = run.verify;
    if (run.timeout_ms < 0) throw bad_options("unshard: .timeout_ms is negative; 0 waits for ever.");
    if (!run.on.all() && run.on.root() >= comm_.size())
      throw bad_options(concat("unshard: .on is not the root of any rank: the communicator has ranks 0 to ",
                               comm_.size() - 1, ". ", here()));
    handles_.index();
    if (replayed) check_replay();
    next_ = committed_ = options_.first_chunk;
    last_ = only == to_the_end ? plan_->chunks() : only + 1;
    if (next_ > plan_->chunks() || last_ > plan_->chunks())
      throw bad_options(concat("unshard: chunk ", options_.first_chunk, " of a plan of ", plan_->chunks(),
                               " chunks was asked for. ", here()));
    holds_ = options_.on.holds(comm_.rank());
    const auto flight = static_cast<std::size_t>(options_.in_flight);
    slots_ = std::max<std::size_t>(1, std::min(flight, last_ - next_));
    states_.resize(slots_ + 1);
    ahead_ = !A::gathers ? 0 : !A::writes || slots_ < 3 ? slots_ - 1 : slots_ - 2;
    check_handles(only);
    obtain_memory();
    gathered_to_ = prepared_to_ = next_;
    prepare_chunks(next_ + ahead_ + 1);
  }

  void check_replay() {
    const capabilities now = capabilities_of(comm_);
    const capabilities then = plan_->engine();
    if (now.staging > then.staging || (then.regions && !now.regions))
      throw stale_plan(concat("unshard: the engine needs ", now.staging, " bytes of staging",
                              now.regions ? "" : " and has no regions", "; the plan left it ", then.staging,
                              ". Make the plan with capabilities_of(comm). ", here()));
    std::uint64_t digest = chunk_plan::digest_seed;
    layout_digests<layout_of<handle>> digests;
    auto tie = plan_->ties().begin();
    for (std::size_t i = 0; i < handles_.size(); ++i) {
      auto&& h = handles_[i];
      const auto& layout = traits_of<handle>::layout(h);
      digest = mix(mix(digest, digests(layout)), static_cast<std::uint64_t>(traits_of<handle>::element_size(h)));
      if (tie != plan_->ties().end() && tie->first == i)
        digest = mix(digest, static_cast<std::uint64_t>((tie++)->second));
    }
    if (digest != plan_->digest() || handles_.size() != plan_->parameters())
      throw stale_plan(concat("unshard: the plan was made for ", plan_->parameters(),
                              " parameters of other layouts or element sizes than these ", handles_.size(),
                              ". Make it anew. ", here()));
  }

  /// Layouts fit the communicator, shards are long enough, and nobody else has them open.
  void check_handles(std::size_t only) {
    std::vector<shard_bytes> open;
    std::vector<bool> used(only == to_the_end ? 0 : handles_.size(), false);
    if (!used.empty())
      plan_->for_each_piece(
          only, [&](std::size_t p) { return size_at(p); }, [&](const planned_piece& p) { used[p.parameter] = true; });
    digest_ = 0x0be4;
    auto tie = plan_->ties().begin();
    for (std::size_t i = 0; i < handles_.size(); ++i) {
      auto&& h = handles_[i];
      const auto& layout = traits_of<handle>::layout(h);
      if (layout.ranks() != comm_.size())
        throw bad_layout(concat("unshard: parameter ", called(i, name_of<handle>(h)), " has a layout for ",
                                static_cast<int>(layout.ranks()), " ranks; the communicator has ", comm_.size(),
                                ". Give it a layout for these ranks; on_ranks places one on some of them. ", here()));
      index_t elements = 0;
      for (const box& b : layout.boxes_of(comm_.rank())) elements = checked_add(elements, b.size.elements());
      const auto needed =
          static_cast<std::size_t>(checked_mul(elements, static_cast<index_t>(traits_of<handle>::element_size(h))));
      const auto shard = std::span<byte>(traits_of<handle>::shard(h));
      if (shard.size() < needed)
        throw bad_shard(concat("unshard: the shard of parameter ", called(i, name_of<handle>(h)), " has ", shard.size(),
                               " bytes; its layout gives this rank ", needed,
                               ". Give all of the shard; padding behind it may be left out. ", here()),
                        i, needed, shard.size());
      const bool tied = tie != plan_->ties().end() && tie->first == i;
      digest_ = mix(digest_, parameter_digest(i, h, layout, tied ? tie->second : i));
      if (tied) ++tie;
      if (options_.verify && !tied && needed > 0 && (used.empty() || used[i])) {
        const auto from = reinterpret_cast<std::uintptr_t>(shard.data());
        open.push_back({from, from + needed, i});
      }
    }
    if (options_.verify)
      scope_.open(std::move(open), A::writes, [&](std::size_t i) {
        auto&& h = handles_[i];
        return called(i, name_of<handle>(h));
      });
  }

  template <class L>
  std::uint64_t parameter_digest(std::size_t, handle& h, const L& layout, std::size_t tied_to) {
    std::uint64_t d = mix(digest_of_text(0xda7a, name_of<handle>(h)), digests_(layout));
    d = mix(mix(d, static_cast<std::uint64_t>(traits_of<handle>::element_size(h))),
            static_cast<std::uint64_t>(tied_to));
    return mix(mix(d, group_of<handle>(h)), static_cast<std::uint64_t>(indivisible_of<handle>(h)));
  }

  void obtain_memory() {
    std::size_t chunk = 0;
    std::size_t staging = 0;
    const std::size_t largest = align_up(plan_->summary().largest, options_.alignment);
    if (holds_) chunk = largest;
    if (!capabilities_of(comm_).regions) staging = holds_ ? largest : align_up(most_own_bytes(), options_.alignment);
    buffers_.obtain(slots_, chunk, staging, options_.alignment);
  }

  /// The most bytes of any chunk that are in this rank's shards: what it may have to stage.
  std::size_t most_own_bytes() {
    std::size_t most = 0;
    for (std::size_t i = next_; i < last_; ++i) {
      std::size_t own = 0;
      plan_->for_each_piece(
          i, [&](std::size_t p) { return size_at(p); },
          [&](const planned_piece& p) {
            if (p.elements == 0) return;
            auto&& h = handles_[p.parameter];
            own += static_cast<std::size_t>(held_of(traits_of<handle>::layout(h), comm_.rank(), p.first, p.elements)) *
                   (p.bytes / static_cast<std::size_t>(p.elements));
          });
      most = std::max(most, own);
    }
    return most;
  }

  parameter_size size_at(std::size_t i) {
    auto&& h = handles_[i];
    return size_of<handle>(h);
  }

  void agree(const std::exception_ptr& failure) {
    const std::string said = failure ? text_of(failure) : std::string();
    const std::string settings = failure ? std::string() : settings_text(A::name, options_, *plan_);
    const auto prefix = [&](std::size_t k) {
      std::uint64_t d = 0x0be4;
      auto tie = plan_->ties().begin();
      for (std::size_t i = 0; i < k; ++i) {
        auto&& h = handles_[i];
        const bool tied = tie != plan_->ties().end() && tie->first == i;
        d = mix(d, parameter_digest(i, h, traits_of<handle>::layout(h), tied ? (tie++)->second : i));
      }
      return d;
    };
    const auto describe = [&](std::size_t i) {
      auto&& h = handles_[i];
      const auto& layout = traits_of<handle>::layout(h);
      return concat('"', name_of<handle>(h), "\" ", to_text(extents(layout.shape())), " of ",
                    static_cast<std::size_t>(traits_of<handle>::element_size(h)), "-byte elements, group ",
                    group_of<handle>(h), ", layout ", digests_(layout) % 1'000'000);
    };
    verdict v;
    try {
      v = words_.open(failure != nullptr, said, settings, handles_.size(), digest_, prefix, describe);
    } catch (const out_of_step& e) {
      fail(e.what());
      throw;
    } catch (const plan_mismatch&) {
      end();
      throw;
    } catch (const std::exception& e) {
      fail(e.what());
      if (failure) std::rethrow_exception(failure);
      throw;
    }
    if (v.culprit < 0) return;
    end();
    if (failure) std::rethrow_exception(failure);
    throw peer_failed(concat("unshard: rank ", v.culprit, " failed before any byte moved: ", v.message, ' ', here()),
                      v.culprit);
  }

  // ---- one chunk

  void prepare_chunks(std::size_t end) {
    for (; prepared_to_ < std::min(last_, end); ++prepared_to_) prepare_chunk(prepared_to_);
  }

  /// Lists, schedules and batches of chunk i: whatever may throw on this rank alone.
  void prepare_chunk(std::size_t i) {
    chunk_state& s = state(i);
    s.gather.clear();
    s.write_back.clear();
    s.pieces.clear();
    s.shards.clear();
    s.replicated.clear();
    s.number = i;
    s.end = 0;
    s.gathered = !A::gathers;
    using fill = chunk_filler<byte>;
    fill::start(s.chunk, i);
    const std::size_t slot = slot_of(i);
    const capabilities engine = capabilities_of(comm_);
    constexpr collectives can = collectives_of<batch_type>();
    schedule in(movement::gather, comm_.rank(), comm_.size(), options_.on, engine, can);
    schedule out(movement::write_back, comm_.rank(), comm_.size(), options_.on, engine, can);
    plan_->for_each_piece(
        i, [&](std::size_t p) { return size_at(p); },
        [&](const planned_piece& p) {
          auto&& h = handles_[p.parameter];
          const auto& layout = traits_of<handle>::layout(h);
          s.pieces.push_back(p);
          s.shards.push_back(const_cast<std::byte*>(std::span<byte>(traits_of<handle>::shard(h)).data()));
          if (p.bytes > 0) s.end = p.offset + p.bytes;
          fill::count(s.chunk, p);
          if (holds_)
            fill::add(s.chunk, p, name_of<handle>(h), layout.shape(),
                      static_cast<std::size_t>(traits_of<handle>::element_size(h)), buffers_.chunk(slot));
          if constexpr (A::gathers) in.add(p, layout);
          if constexpr (A::writes) {
            const std::size_t before = out.runs().size();
            out.add(p, layout);
            if (sums_replicas()) weigh_replicas(s, p, layout, out, before);
          }
        });
    fill::finish(s.chunk);
    const chunk_memory where{holds_ ? buffers_.chunk(slot) : nullptr, buffers_.staging(slot), s.shards};
    if constexpr (A::gathers) fill_batches(in, where, s.gather);
    if constexpr (A::writes) fill_batches(out, where, s.write_back);
  }

  void fill_batches(schedule& sched, const chunk_memory& where, std::vector<batch_type>& out) {
    sched.finish();
    batch_filler<batch_type> filler(sched, where);
    for (std::size_t b = 0; b < sched.batches(); ++b) {
      out.push_back(comm_.open_batch());
      filler.fill(out.back(), b);
    }
  }

  bool sums_replicas() const { return is_host_memory<M> && options_.verify && options_.on.all(); }

  /// Weights over the replicas of a part sum to zero, so that equal checksums do, too.
  template <class L>
  void weigh_replicas(chunk_state& s, const planned_piece& p, const L& layout, const schedule& out,
                      std::size_t before) {
    if (out.runs().size() == before) return;
    const rank_list group = replicas_of(layout, comm_.rank(), p.first, p.elements);
    if (group.size() < 2) return;
    std::uint64_t weight = 0;
    for (int j = 1; j < group.size(); ++j) {
      const std::uint64_t w = mix(mix(static_cast<std::uint64_t>(s.pieces.size()), p.first), j) | 1;
      if (group[j] == comm_.rank()) weight = w;
      if (group[0] == comm_.rank()) weight -= w;
    }
    for (std::size_t r = before; r < out.runs().size(); ++r) {
      for (const strided_block& b : out.blocks_of(out.runs()[r])) s.replicated.emplace_back(b, weight);
    }
  }

  /// Checks what the body left behind; the sum of the parts that other ranks hold, too.
  std::uint64_t finish_body() {
    std::uint64_t sum = 0;
    if constexpr (is_host_memory<M> && A::writes) {
      if (holds_ && options_.verify) {
        chunk_state& s = state(current_);
        const std::byte* buffer = buffers_.chunk(slot_of(current_));
        if constexpr (!A::gathers) {
          for (const auto& p : s.chunk) {
            const auto offset = static_cast<std::size_t>(p.bytes().data() - buffer);
            if (p.bytes().size() >= 16 && is_paint(buffer, offset, p.bytes().size()))
              throw unwritten_piece(
                  concat("unshard: under overwrite the body left parameter ", called(p.index(), p.name()),
                         ", elements ", p.first(), " to ", p.first() + p.elements(),
                         ", as it found it. Fill every element, or use read_write. ", here()),
                  p.index());
          }
        }
        for (const auto& [block, weight] : s.replicated) {
          std::uint64_t c = 0;
          const const_region one{buffer + block.offset, block.size, block.stride};
          for (region_cursor<const_region> at(std::span(&one, 1)); !at.done(); at.advance(at.run()))
            c = checksum(c, at.data(), at.run());
          sum += weight * c;
        }
      }
    }
    prepare_chunks(current_ + ahead_ + 2);
    return sum;
  }

  // ---- under way

  void launch(std::vector<batch_type>& batches, std::size_t chunk, bool writes) {
    for (std::size_t b = 0; b < batches.size(); ++b) {
      if (b > 0) drain([] { return false; });  // a later batch may use what an earlier one packed
      queue_.push_back({comm_.launch(std::move(batches[b])), chunk, writes, b + 1 == batches.size()});
    }
    batches.clear();
  }

  void launch_gathers() {
    if constexpr (A::gathers) {
      for (; gathered_to_ < std::min(last_, next_ + ahead_ + 1); ++gathered_to_) {
        buffers_.reopen(slot_of(gathered_to_));
        launch(state(gathered_to_).gather, gathered_to_, false);
        emit(event_kind::gather_launched, gathered_to_);
      }
    }
  }

  void write_back_and_go_on() {
    if constexpr (A::writes) {
      writing_ = true;
      launch(state(current_).write_back, current_, true);
      emit(event_kind::write_back_launched, current_);
      const bool slot_needed = slots_ == 1 || (A::gathers && slots_ == 2) || next_ == last_;
      if (slot_needed) drain_write_back();
    } else {
      buffers_.close(slot_of(current_));
      ++committed_;
      emit(event_kind::committed, current_);
    }
    launch_gathers();
  }

  /// Waits for launches in their order until `enough()`; for all of them, if it never is.
  template <class Enough>
  void drain(Enough enough) {
    while (!enough() && !queue_.empty()) {
      under_way& u = queue_.front();
      u.done.wait(options_.timeout_ms);
      const std::size_t chunk = u.chunk;
      const bool writes = u.writes;
      const bool last = u.last;
      queue_.erase(queue_.begin());
      if (!last) continue;
      if (writes) {
        committed(chunk);
      } else {
        state(chunk).gathered = true;
        emit(event_kind::gathered, chunk);
      }
    }
  }
  void drain_write_back() {
    drain([&] { return !writing_; });
  }

  void committed(std::size_t chunk) {
    writing_ = false;
    ++committed_;
    buffers_.close(slot_of(chunk));
    if constexpr (has_after_write) {
      try {
        for (const planned_piece& p : state(chunk).pieces) {
          if (!plan_->ends_parameter(chunk, p, size_at(p.parameter).elements)) continue;
          after_write(p.parameter);
          for (const auto& [index, first] : plan_->ties()) {
            if (first == p.parameter) after_write(index);
          }
        }
      } catch (...) {
        deferred_ = std::current_exception();
      }
    }
    emit(event_kind::committed, chunk);
  }
  void after_write(std::size_t i) {
    auto&& h = handles_[i];
    traits_of<handle>::after_write(h);
  }

  // ---- ends

  void end() noexcept {
    ended_ = true;
    scope_.close();
  }

  /// An agreed failure: what is under way arrives and is dropped; the communicator stays usable.
  void give_up() {
    ended_ = true;
    scope_.close();
    emit(event_kind::discarded, next_);
    transport([&] { drain([] { return false; }); });
    buffers_.close(slot_of(next_));
  }

  /// The transport failed: nothing more can be said to the peers but that.
  void fail(std::string_view why) noexcept {
    if (failed_) return;
    failed_ = true;
    ended_ = true;
    scope_.close();
    comm_.abort(concat("in chunk ", next_, " of a range or scope: ", why));
  }

  /// Runs what talks to peers. A throw there aborts; where a write-back is under way, that chunk is in doubt.
  template <class F>
  void transport(F f) {
    try {
      f();
    } catch (const std::exception& e) {
      give_in(e.what());
    } catch (...) {
      give_in("an exception that is no std::exception");
    }
  }
  [[noreturn]] void give_in(const char* why) {
    const std::string text = why;
    fail(text);
    if (writing_) {
      const std::size_t doubtful = committed_;
      throw write_back_failed(
          concat("unshard: the write-back of chunk ", doubtful,
                 " failed: its shards are unspecified, earlier chunks are committed, later ones untouched: ", text, ' ',
                 here()),
          doubtful);
    }
    throw;
  }

  bool must_keep_memory() const {
    if constexpr (requires {
                    { comm_.abandoned() } -> std::convertible_to<bool>;
                  }) {
      return failed_ && comm_.abandoned();
    } else {
      return false;
    }
  }

  void emit(event_kind kind, std::size_t chunk, std::string_view message = {}) const {
    const plan_summary none;
    const plan_summary& s = plan_ == nullptr ? none : plan_->summary();
    std::size_t bytes = 0;
    if (!states_.empty()) {
      const chunk_state& at = states_[chunk % states_.size()];
      if (at.number == chunk) bytes = at.chunk.bytes();
    }
    options_.observer({kind, comm_.rank(), chunk, s.chunks, bytes, s.bytes, buffers_.bytes(), message});
  }

  handle_list<R> handles_;
  C& comm_;
  options options_;
  const chunk_plan* plan_;
  std::vector<chunk_plan> made_;  // none, or the one that plan_ points to
  slot_buffers<M> buffers_;
  agreement<C> words_;
  open_scope scope_;
  layout_digests<layout_of<handle>> digests_;
  std::uint64_t digest_ = 0;

  bool holds_ = false;
  std::size_t slots_ = 1;
  std::size_t ahead_ = 0;        // gathers launched before the chunk's own turn
  std::size_t next_ = 0;         // the chunk in hand, or the next one
  std::size_t last_ = 0;         // one past the last
  std::size_t current_ = 0;      // the chunk whose body runs or ran last
  std::size_t prepared_to_ = 0;  // chunks below are prepared
  std::size_t gathered_to_ = 0;  // gathers below are launched
  std::size_t committed_ = 0;
  std::vector<chunk_state> states_;
  std::vector<under_way> queue_;  // launches not waited for, in order
  std::exception_ptr deferred_;   // what an after_write threw
  bool writing_ = false;          // a write-back is under way: that of chunk committed_
  bool ended_ = false;
  bool failed_ = false;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
