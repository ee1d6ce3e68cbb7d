// SPDX-License-Identifier: Apache-2.0
#pragma once  // mpi.hpp: ranks are processes of an MPI job, MPI 3 or later. The only header that includes <mpi.h>.

#include <mpi.h>

#include <cstddef>
#include <span>
#include <string_view>
#include <unshard/comm/mpi/engine.hpp>
#include <unshard/communicator.hpp>
#include <unshard/error.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// How the headers of the engine call MPI. What returns `int` gives MPI's code, which `check` throws; all else that can
/// fail throws by itself.
struct mpi_calls {
  using comm = MPI_Comm;
  using type = MPI_Datatype;
  using request = MPI_Request;
  using status = MPI_Status;
  using address = MPI_Aint;

  /// Throws device_failed with MPI's own words where `code`, which `call` returned, is an error.
  static void check(int code, std::string_view call, int rank) {
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = {};
    int length = 0;
    MPI_Error_string(code, text, &length);
    throw device_failed(concat("mpi_communicator: ", call, " failed: ",
                               std::string_view(text, static_cast<std::size_t>(length)), ". [rank ", rank, "]"));
  }

  // Threads and communicators.
  static int single() { return MPI_THREAD_SINGLE; }
  static int serialized() { return MPI_THREAD_SERIALIZED; }
  static int level() {
    int provided = MPI_THREAD_SINGLE;
    MPI_Query_thread(&provided);
    return provided;
  }
  static bool on_main_thread() {
    int is = 0;
    MPI_Is_thread_main(&is);
    return is != 0;
  }
  static comm no_comm() { return MPI_COMM_NULL; }
  /// `made` returns its errors, whatever handler `from` has.
  static void duplicate(comm from, comm& made, int& rank, int& size) {
    MPI_Comm_rank(from, &rank);
    MPI_Comm_size(from, &size);
    check(MPI_Comm_dup(from, &made), "MPI_Comm_dup", rank);
    check(MPI_Comm_set_errhandler(made, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler", rank);
  }
  /// Nothing after MPI_Finalize.
  static void free_comm(comm c) {
    int ended = 0;
    MPI_Finalized(&ended);
    if (ended == 0) MPI_Comm_free(&c);
  }
  static int largest_tag(int otherwise) {
    int* most = nullptr;
    int found = 0;
    MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, static_cast<void*>(&most), &found);
    return found != 0 ? *most : otherwise;
  }

  // Types.
  static type no_type() { return MPI_DATATYPE_NULL; }
  static type byte() { return MPI_BYTE; }
  static void* bottom() { return MPI_BOTTOM; }
  static address address_of(const void* p, int rank) {
    address at = 0;
    check(MPI_Get_address(p, &at), "MPI_Get_address", rank);
    return at;
  }
  static void hvector(int count, int length, address stride, type inner, type& made, int rank) {
    check(MPI_Type_create_hvector(count, length, stride, inner, &made), "MPI_Type_create_hvector", rank);
  }
  static void hindexed(std::span<const address> at, std::span<const int> bytes, type& made, int rank) {
    check(MPI_Type_create_hindexed(static_cast<int>(at.size()), bytes.data(), at.data(), MPI_BYTE, &made),
          "MPI_Type_create_hindexed", rank);
  }
  static void structure(std::span<const address> at, std::span<const type> types, type& made, int rank) {
    const std::vector<int> ones(at.size(), 1);
    check(MPI_Type_create_struct(static_cast<int>(at.size()), ones.data(), at.data(), types.data(), &made),
          "MPI_Type_create_struct", rank);
  }
  static void commit(type& t, int rank) { check(MPI_Type_commit(&t), "MPI_Type_commit", rank); }
  static void free_type(type& t) { MPI_Type_free(&t); }

  // Operations.
  static request no_request() { return MPI_REQUEST_NULL; }
  static int any_source() { return MPI_ANY_SOURCE; }
  static int any_tag() { return MPI_ANY_TAG; }
  static int isend(const void* p, int count, type t, int peer, int tag, comm c, request& r) {
    return MPI_Isend(p, count, t, peer, tag, c, &r);
  }
  static int irecv(void* p, int count, type t, int peer, int tag, comm c, request& r) {
    return MPI_Irecv(p, count, t, peer, tag, c, &r);
  }
  static int recv(void* p, int bytes, int peer, int tag, comm c) {
    return MPI_Recv(p, bytes, MPI_BYTE, peer, tag, c, MPI_STATUS_IGNORE);
  }
  static int iallgather(const void* mine, void* all, int bytes, comm c, request& r) {
    return MPI_Iallgather(mine, bytes, MPI_BYTE, all, bytes, MPI_BYTE, c, &r);
  }
  static int test(request& r, bool& ended) {
    int flag = 0;
    const int code = MPI_Test(&r, &flag, MPI_STATUS_IGNORE);
    ended = flag != 0;
    return code;
  }
  static int test(request& r, bool& ended, status& s) {
    int flag = 0;
    const int code = MPI_Test(&r, &flag, &s);
    ended = flag != 0;
    return code;
  }
  static int iprobe(int peer, int tag, comm c, bool& here, status& s) {
    int flag = 0;
    const int code = MPI_Iprobe(peer, tag, c, &flag, &s);
    here = flag != 0;
    return code;
  }
  static void cancel(request& r) { MPI_Cancel(&r); }
  static int source(const status& s) { return s.MPI_SOURCE; }
  static int tag(const status& s) { return s.MPI_TAG; }
  static index_t bytes(const status& s) {
    MPI_Count count = 0;
    MPI_Get_elements_x(&s, MPI_BYTE, &count);
    return count;
  }
};

}  // namespace detail

/// What open_batch gives. Throws bad_options for a peer that there is not, batch_mismatch for a copy whose lists differ
/// in length, device_failed.
using mpi_batch = detail::mpi_batch<detail::mpi_calls>;
/// What launch gives. The communicator outlives it.
using mpi_completion = detail::mpi_completion<detail::mpi_calls>;
static_assert(batch<mpi_batch>);
static_assert(completion<mpi_completion>);

/// The ranks of an MPI communicator, on a duplicate of it, so that nothing here meets the application's messages and
/// the application's error handler stays as it is. Making one is collective over `comm`; so is destroying it, before
/// MPI_Finalize or after, unless it was poisoned: then the destructor leaves the duplicate to MPI. Not movable:
/// completions point to it. Throws device_failed where MPI is not running or its thread level is too low.
/// docs/mpi.md says how it waits and what is left after a failure.
class mpi_communicator {
 public:
  explicit mpi_communicator(MPI_Comm comm) {
    int running = 0;
    int ended = 0;
    MPI_Initialized(&running);
    MPI_Finalized(&ended);
    if (running == 0 || ended != 0)
      throw device_failed(detail::concat("mpi_communicator: MPI is ", ended != 0 ? "finalised" : "not initialised",
                                         ". Call MPI_Init or MPI_Init_thread first."));
    int between = 0;
    if (comm != MPI_COMM_NULL) MPI_Comm_test_inter(comm, &between);
    if (comm == MPI_COMM_NULL || between != 0)
      throw device_failed(detail::concat("mpi_communicator: asked for over ",
                                         between != 0 ? "an inter-communicator" : "MPI_COMM_NULL",
                                         ". Give it the intra-communicator of the ranks that take part."));
    engine_.begin(comm);
  }

  int rank() const { return engine_.rank(); }
  int size() const { return engine_.size(); }
  unshard::capabilities capabilities() const { return {.regions = true}; }

  mpi_batch open_batch() { return engine_.open_batch(); }
  mpi_completion launch(mpi_batch batch) { return engine_.launch(std::move(batch)); }
  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    engine_.exchange(mine, all, timeout_ms);
  }
  /// Tells the peers, cancels what can be cancelled, and gives the rest a second to end.
  void abort(std::string_view reason) noexcept { engine_.abort(reason); }

  /// After abort: whether operations could not be ended, so that MPI may still touch their buffers. Those must then
  /// be left allocated; only the end of the process frees them.
  bool abandoned() const noexcept { return engine_.abandoned(); }

 private:
  detail::mpi_engine<detail::mpi_calls> engine_;  // neither copied nor moved
};
static_assert(communicator<mpi_communicator>);

}  // namespace v0
}  // namespace unshard
