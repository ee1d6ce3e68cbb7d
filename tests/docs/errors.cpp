// SPDX-License-Identifier: Apache-2.0
// Provokes every error of the library once and prints what each rank is told. scripts/docs makes the page "what
// failures look like" of it: for each case the lines between its marks, and what they printed. Fails where a case
// throws nothing, or no rank gets the error that it is named after.

#include <algorithm>
#include <array>
#include <cstdio>
#include <latch>
#include <stdexcept>
#include <string>
#include <unshard/comm/threads.hpp>
#include <unshard/testing/mock.hpp>
#include <unshard/unshard.hpp>
#include <utility>
#include <vector>

namespace {

using namespace unshard;  // NOLINT: the page's listings are easier to read so

/// A sharded tensor as an engine might have one: float32, the flat value cut evenly.
class tensor {
 public:
  tensor(std::string name, any_layout layout, int rank) : name_(std::move(name)), layout_(std::move(layout)) {
    index_t held = 0;
    for (const box& b : layout_.boxes_of(rank)) held += b.size.elements();
    values_.resize(static_cast<std::size_t>(held));
  }
  std::string_view name() const { return name_; }
  const any_layout& layout() const { return layout_; }
  std::size_t element_size() const { return sizeof(float); }
  std::span<std::byte> shard() { return std::as_writable_bytes(std::span(values_)).first(values_.size() * 4 - lost_); }
  void lose(std::size_t bytes) { lost_ = bytes; }

 private:
  std::string name_;
  any_layout layout_;
  std::vector<float> values_;
  std::size_t lost_ = 0;
};

/// The model of all cases: three parameters of 4 MiB, 1 MiB and 4 KiB.
std::vector<tensor> model(int rank, int ranks) {
  std::vector<tensor> list;
  list.emplace_back("layers.0.experts", flat_shard{{1024, 1024}, ranks}, rank);
  list.emplace_back("layers.0.proj", flat_shard{{512, 512}, ranks}, rank);
  list.emplace_back("layers.0.norm", replicated{{1024}, ranks}, rank);
  return list;
}

/// The body of an initialiser.
void fill(const auto& chunk) {
  for (const auto& piece : chunk) std::ranges::fill(piece.template as<float>(), 0.02F);
}

template <class E>
bool is(const error& e) {
  return dynamic_cast<const E*>(&e) != nullptr;
}

std::string type_of(const error& e) {
  // The most derived first.
  const std::pair<const char*, bool> types[] = {{"size_overflow", is<size_overflow>(e)},
                                                {"bad_layout", is<bad_layout>(e)},
                                                {"bad_shard", is<bad_shard>(e)},
                                                {"budget_too_small", is<budget_too_small>(e)},
                                                {"bad_options", is<bad_options>(e)},
                                                {"plan_mismatch", is<plan_mismatch>(e)},
                                                {"stale_plan", is<stale_plan>(e)},
                                                {"peer_failed", is<peer_failed>(e)},
                                                {"peer_timeout", is<peer_timeout>(e)},
                                                {"batch_mismatch", is<batch_mismatch>(e)},
                                                {"write_back_failed", is<write_back_failed>(e)},
                                                {"device_failed", is<device_failed>(e)},
                                                {"overlapping_scope", is<overlapping_scope>(e)},
                                                {"aliased_parameters", is<aliased_parameters>(e)},
                                                {"replicas_differ", is<replicas_differ>(e)},
                                                {"unwritten_piece", is<unwritten_piece>(e)},
                                                {"out_of_memory", is<out_of_memory>(e)}};
  for (const auto& [name, it_is] : types) {
    if (it_is) return name;
  }
  return "error";
}

int failed = 0;

/// Runs a case on so many ranks and prints what each of them caught.
template <class F>
void provoke(const char* name, int ranks, F&& f) {
  std::vector<std::string> told(static_cast<std::size_t>(ranks), "nothing");
  run_ranks(ranks, [&](threads_communicator& comm) {
    std::string& mine = told[static_cast<std::size_t>(comm.rank())];
    try {
      f(comm);
    } catch (const error& e) {
      mine = type_of(e) + '\n' + e.what();
    } catch (const std::exception& e) {
      mine = std::string("its own exception\n") + e.what();
    }
  });
  std::printf("@case %s\n", name);
  for (std::size_t r = 0; r < told.size(); ++r) std::printf("@rank %zu %s\n", r, told[r].c_str());
  const bool found = std::ranges::any_of(told, [&](const std::string& t) { return t.starts_with(name); });
  if (!found) {
    std::fprintf(stderr, "errors: no rank got %s\n", name);
    failed = 1;
  }
}

void before_any_byte_moves() {
  provoke("size_overflow", 1, [](threads_communicator&) {
    // [size_overflow]
    flat_shard layout{{4'000'000'000, 4'000'000'000}, 8};
    // [end]
  });
  provoke("bad_layout", 1, [](threads_communicator&) {
    // [bad_layout]
    box rank_0{{0, 0}, {2, 4}}, rank_1{{3, 0}, {1, 4}};  // row 2 is nobody's
    box_shard layout{{4, 4}, {{rank_0}, {rank_1}}};
    // [end]
  });
  provoke("bad_shard", 2, [](threads_communicator& comm) {
    // [bad_shard]
    auto parameters = model(comm.rank(), comm.size());
    if (comm.rank() == 1) parameters[1].lose(100);  // 100 bytes shorter than its boxes
    for (auto& chunk : chunks(parameters, comm, unshard::read, {.budget = 8 * MiB})) (void)chunk;
    // [end]
  });
  provoke("bad_options", 1, [](threads_communicator& comm) {
    // [bad_options]
    auto parameters = model(comm.rank(), comm.size());
    make_plan(parameters, {.budget = 1 * MiB, .packing = packing::best_fit, .cut = cut::anywhere});
    // [end]
  });
  provoke("budget_too_small", 2, [](threads_communicator& comm) {
    // [budget_too_small]
    auto parameters = model(comm.rank(), comm.size());
    for (auto& chunk : chunks(parameters, comm, overwrite, {.budget = 2 * MiB})) fill(chunk);
    // [end]
  });
  provoke("plan_mismatch", 3, [](threads_communicator& comm) {
    // [plan_mismatch]
    auto parameters = model(comm.rank(), comm.size());
    if (comm.rank() == 2) std::swap(parameters[1], parameters[2]);  // a list made from a hash set, say
    for (auto& chunk : chunks(parameters, comm, overwrite, {.budget = 8 * MiB})) fill(chunk);
    // [end]
  });
  provoke("stale_plan", 2, [](threads_communicator& comm) {
    // [stale_plan]
    auto parameters = model(comm.rank(), comm.size());
    const chunk_plan plan = make_plan(parameters, {.budget = 8 * MiB}, comm);
    parameters.pop_back();
    for (auto& chunk : chunks(plan, parameters, comm, overwrite, {})) fill(chunk);
    // [end]
  });
  provoke("aliased_parameters", 1, [](threads_communicator& comm) {
    // [aliased_parameters]
    std::vector<float> values(1024);
    const auto bytes = std::as_writable_bytes(std::span(values));
    const parameter_view parameters[] = {{"embed", replicated{{1024}, 1}, 4, bytes},
                                         {"head", replicated{{1024}, 1}, 4, bytes}};
    for (auto& chunk : chunks(parameters, comm, read_write, {.budget = 1 * MiB})) fill(chunk);
    // [end]
  });
  provoke("overlapping_scope", 1, [](threads_communicator& comm) {
    threads_group one_rank(1);
    auto other_comm = one_rank.communicator(0);
    // [overlapping_scope]
    auto parameters = model(comm.rank(), comm.size());
    auto outer = chunks(parameters, comm, unshard::read, {.budget = 8 * MiB});
    auto inner = chunks(parameters, other_comm, overwrite, {.budget = 8 * MiB});
    // [end]
  });
  provoke("out_of_memory", 2, [](threads_communicator& comm) {
    // [out_of_memory]
    auto parameters = model(comm.rank(), comm.size());
    std::vector<std::byte> bytes(1 * MiB);
    fixed_memory memory(bytes);  // holds less than the budget allows
    for (auto& chunk : chunks(parameters, comm, overwrite, {.budget = 8 * MiB}, memory)) fill(chunk);
    // [end]
  });
}

void while_chunks_are_open() {
  provoke("peer_failed", 3, [](threads_communicator& comm) {
    // [peer_failed]
    auto parameters = model(comm.rank(), comm.size());
    for (auto& chunk : chunks(parameters, comm, overwrite, {.budget = 8 * MiB})) {
      fill(chunk);
      if (comm.rank() == 1) throw std::runtime_error("rank 1 can't read its checkpoint");
    }
    // [end]
  });
  std::latch rest_is_over(2);
  provoke("peer_timeout", 3, [&](threads_communicator& comm) {
    struct arrive {
      std::latch& latch;
      int rank;
      ~arrive() {
        if (rank != 2) latch.count_down();
      }
    } on_exit{rest_is_over, comm.rank()};
    // [peer_timeout]
    auto parameters = model(comm.rank(), comm.size());
    if (comm.rank() == 2) return rest_is_over.wait();  // busy with something else
    for (auto& chunk : chunks(parameters, comm, overwrite, {.budget = 8 * MiB, .timeout_ms = 100})) fill(chunk);
    // [end]
  });
  provoke("unwritten_piece", 2, [](threads_communicator& comm) {
    // [unwritten_piece]
    auto parameters = model(comm.rank(), comm.size());
    for (auto& chunk : chunks(parameters, comm, overwrite, {.budget = 8 * MiB}))
      for (auto piece : chunk)
        if (piece.name() != "layers.0.norm") std::ranges::fill(piece.as<float>(), 0.02F);  // and the norm?
    // [end]
  });
  provoke("replicas_differ", 2, [](threads_communicator& comm) {
    // [replicas_differ]
    auto parameters = model(comm.rank(), comm.size());
    for (auto& chunk : chunks(parameters, comm, read_write, {.budget = 8 * MiB, .on = every_rank}))
      for (auto piece : chunk)  // every rank its own value: what should the replicas of the norm hold?
        std::ranges::fill(piece.as<float>(), static_cast<float>(comm.rank()));
    // [end]
  });
}

/// The numbers of rank 1's waits in a run without faults: for the gather first, for the write-back last.
std::vector<std::size_t> waits_of_rank_1() {
  mock_world world(2);
  run_ranks(2, [&](threads_communicator& engine) {
    mock_communicator comm(engine, world);
    auto parameters = model(comm.rank(), comm.size());
    for (auto& chunk : chunks(parameters, comm, read_write, {.budget = 8 * MiB})) fill(chunk);
  });
  std::vector<std::size_t> numbers;
  const std::vector<mock_record> log = world.log(1);
  for (std::size_t i = 0; i < log.size(); ++i) {
    if (log[i].op == mock_op::wait) numbers.push_back(i);
  }
  return numbers;
}

void from_the_transport() {
  provoke("batch_mismatch", 2, [](threads_communicator& comm) {
    // [batch_mismatch]
    std::array<std::byte, 16> bytes{};
    auto batch = comm.open_batch();
    const auto n = comm.rank() == 0 ? index_t{16} : index_t{12};  // rank 0 sends 16 bytes, rank 1 expects 12
    const region r{bytes.data(), {n}, {1}};
    const const_region from = r;
    if (comm.rank() == 0) batch.send({&from, 1}, 1);
    if (comm.rank() == 1) batch.recv({&r, 1}, 0);
    comm.launch(std::move(batch)).wait(1000);
    // [end]
  });
  {
    mock_world world(2);
    world.inject({fault_kind::fail_before, 1, waits_of_rank_1().front()});
    provoke("device_failed", 2, [&](threads_communicator& engine) {
      // [device_failed]
      mock_communicator comm(engine, world);  // a script lets rank 1 fail while it waits for the gather
      auto parameters = model(comm.rank(), comm.size());
      for (auto& chunk : chunks(parameters, comm, read_write, {.budget = 8 * MiB})) fill(chunk);
      // [end]
    });
  }
  {
    mock_world world(2);
    world.inject({fault_kind::fail_before, 1, waits_of_rank_1().back()});
    provoke("write_back_failed", 2, [&](threads_communicator& engine) {
      // [write_back_failed]
      mock_communicator comm(engine, world);  // a script lets rank 1 fail after the vote, while it writes back
      auto parameters = model(comm.rank(), comm.size());
      for (auto& chunk : chunks(parameters, comm, read_write, {.budget = 8 * MiB})) fill(chunk);
      // [end]
    });
  }
}

}  // namespace

int main() {
  before_any_byte_moves();
  while_chunks_are_open();
  from_the_transport();
  return failed;
}
