// SPDX-License-Identifier: Apache-2.0
#pragma once  // gathering.hpp: unshard::chunks behind one type that Python can hold, with torch tensors over the chunk.

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <unshard/gather.hpp>
#include <utility>
#include <vector>

#include "handles.hpp"
#include "process_group_communicator.hpp"

namespace unshard_torch {

/// A memory_resource whose blocks live as long as anyone holds them: a numpy array made of a chunk's tensor keeps the
/// address valid after the chunk has ended. The budget has counted those bytes already.
class shared_memory {
 public:
  void* allocate(std::size_t bytes, std::size_t alignment) {
    void* p = unshard::host_memory().allocate(bytes, alignment);
    blocks_.emplace(p, std::shared_ptr<void>(
                           p, [bytes, alignment](void* q) { unshard::host_memory().deallocate(q, bytes, alignment); }));
    return p;
  }
  void deallocate(void* p, std::size_t, std::size_t) noexcept { blocks_.erase(p); }

  /// The block that `p` lies in.
  std::shared_ptr<void> holder_of(const void* p) const {
    auto next = blocks_.upper_bound(const_cast<void*>(p));
    return next == blocks_.begin() ? nullptr : std::prev(next)->second;
  }

 private:
  std::map<void*, std::shared_ptr<void>> blocks_;
};
static_assert(unshard::memory_resource<shared_memory>);

/// A piece, as Python sees it.
struct torch_piece {
  std::string name;
  std::size_t index;  ///< in the list that was given
  std::vector<std::int64_t> shape;
  std::int64_t first;
  std::int64_t elements;
  bool whole;
  at::Tensor tensor;  ///< of the parameter's shape where it is whole, else flat
};

/// A range of chunks, whatever its access. Everything but pieces() may block for peers.
class gathering {
 public:
  virtual ~gathering() = default;
  /// To the first or the next chunk; false after the last one. What was written to the chunk in hand is committed.
  bool next() {
    invalidate();
    return advance();
  }
  /// Ends the range; a chunk in hand is discarded.
  void close() {
    invalidate();
    end();
  }
  virtual std::size_t chunk() const = 0;  ///< number of the chunk in hand
  virtual std::size_t committed() const = 0;
  /// On ranks that hold nothing: none.
  virtual std::vector<torch_piece> pieces() = 0;

 protected:
  virtual bool advance() = 0;
  virtual void end() = 0;

  at::Tensor tensor_over(const void* data, const std::vector<std::int64_t>& sizes, at::ScalarType type) {
    auto holder = memory_.holder_of(data);
    at::Tensor t = at::from_blob(
        const_cast<void*>(data), sizes, [holder](void*) {}, at::TensorOptions().dtype(type));
    shown_.push_back(t.storage());
    return t;
  }

  /// From here on every use of the chunk's tensors, of their views too, raises.
  void invalidate() {
    for (const c10::Storage& s : shown_)
      s.unsafeGetStorageImpl()->release_data_and_set_meta_custom_data_ptr_error_msg_(
          "unshard: this tensor viewed a chunk that has ended; its memory holds something else by now. Clone what you "
          "want to keep while the chunk is open.");
    shown_.clear();
  }

  shared_memory memory_;

 private:
  std::vector<c10::Storage> shown_;
};

template <class Access>
class gathering_with final : public gathering {
 public:
  gathering_with(std::shared_ptr<std::vector<torch_parameter>> handles,
                 std::shared_ptr<process_group_communicator> comm, Access access, const unshard::options& options)
      : handles_(std::move(handles)), comm_(std::move(comm)), range_(new holder{open(access, options)}) {}
  ~gathering_with() override { close(); }

  std::size_t chunk() const override { return (**at_).number(); }
  std::size_t committed() const override { return range_ ? range_->chunks.committed() : committed_; }

  std::vector<torch_piece> pieces() override {
    std::vector<torch_piece> list;
    for (auto piece : **at_) {
      const unshard::extents shape = piece.shape();
      std::vector<std::int64_t> sizes;
      for (int d = 0; d < shape.dims(); ++d) sizes.push_back(shape[d]);
      const std::vector<std::int64_t> shown = piece.whole() ? sizes : std::vector<std::int64_t>{piece.elements()};
      list.push_back({std::string(piece.name()), piece.index(), sizes, piece.first(), piece.elements(), piece.whole(),
                      tensor_over(piece.bytes().data(), shown, (*handles_)[piece.index()].dtype())});
    }
    return list;
  }

 private:
  auto open(Access access, const unshard::options& options) {
    return unshard::chunks(*handles_, *comm_, access, options, memory_);
  }
  using range = decltype(unshard::chunks(std::declval<std::vector<torch_parameter>&>(),
                                         std::declval<process_group_communicator&>(), std::declval<Access>(),
                                         std::declval<const unshard::options&>(), std::declval<shared_memory&>()));
  using iterator = decltype(std::declval<range&>().begin());

  bool advance() override {
    if (at_) {
      ++*at_;
    } else {
      at_.emplace(range_->chunks.begin());
    }
    return *at_ != range_->chunks.end();
  }

  void end() override {
    committed_ = committed();
    at_.reset();  // before the range: its end is what ends the range
    range_.reset();
  }

  std::shared_ptr<std::vector<torch_parameter>> handles_;
  std::shared_ptr<process_group_communicator> comm_;
  struct holder {
    range chunks;  // neither copied nor moved: made in its place
  };
  std::unique_ptr<holder> range_;
  std::optional<iterator> at_;
  std::size_t committed_ = 0;
};

}  // namespace unshard_torch
