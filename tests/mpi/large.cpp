// SPDX-License-Identifier: Apache-2.0
// comm/mpi.hpp: more bytes in one operation than an int counts. Two ranks are enough; it takes 5 GiB of memory.
#include <memory>

#include "world.hpp"

namespace {

using namespace unshard;
using namespace world;

constexpr std::size_t total = (std::size_t{1} << 31) + (std::size_t{3} << 20);

std::uint64_t value_at(std::size_t word) { return word * 0x9e3779b97f4a7c15ULL; }

}  // namespace

TEST_CASE("mpi_communicator: one operation of more than 2 GiB arrives whole, from one run and into rows") {
  if (size() < 2 || rank() > 1) return;
  MPI_Comm pair = MPI_COMM_NULL;
  MPI_Group all = MPI_GROUP_NULL, two = MPI_GROUP_NULL;
  const int members[] = {0, 1};
  MPI_Comm_group(MPI_COMM_WORLD, &all);
  MPI_Group_incl(all, 2, members, &two);
  MPI_Comm_create_group(MPI_COMM_WORLD, two, 0, &pair);
  mpi_communicator c(pair);
  constexpr std::size_t words = total / 8;
  const std::unique_ptr<std::uint64_t[]> memory(new std::uint64_t[words + 4096]);
  auto* const begin = reinterpret_cast<std::byte*>(memory.get());
  if (c.rank() == 0) {
    for (std::size_t i = 0; i < words; ++i) memory[i] = value_at(i);
  }
  // Contiguous on both sides, then into rows of 1 MiB with 8 bytes between.
  constexpr index_t row = index_t{1} << 20;
  const region run{begin, {static_cast<index_t>(total)}, {1}};
  const region rows{begin, {static_cast<index_t>(total) / row, row}, {row + 8, 1}};
  for (const bool strided : {false, true}) {
    mpi_batch b = c.open_batch();
    const const_region from = run;
    if (c.rank() == 0) b.send({&from, 1}, 1);
    if (c.rank() == 1) b.recv({strided ? &rows : &run, 1}, 0);
    c.launch(std::move(b)).wait(patient_ms);
    std::size_t wrong = 0;
    for (std::size_t i = 0; c.rank() == 1 && i < words; ++i)
      wrong += memory[strided ? i + i / (static_cast<std::size_t>(row) / 8) : i] != value_at(i);
    CHECK(wrong == 0);
  }
  MPI_Group_free(&all);
  MPI_Group_free(&two);
  MPI_Comm_free(&pair);
}
