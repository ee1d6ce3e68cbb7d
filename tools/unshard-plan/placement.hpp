// SPDX-License-Identifier: Apache-2.0
#pragma once  // placement.hpp: how a model is sharded over ranks, by the words of --layout and --stages.

#include <string>
#include <string_view>
#include <unshard/layout.hpp>
#include <utility>
#include <vector>

#include "model.hpp"

namespace unshard_plan {

/// A layout that the command line asks for and that can't be. what() says why.
class bad_placement : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The layouts of all tensors of a model, and who holds how much. `layout` is one of:
///   flat          ZeRO-3, FSDP1: the flat value over all ranks
///   dim:N         FSDP2: dimension N over all ranks
///   hsdp:S        HSDP: rows over S ranks, and every S ranks another replica
///   fsdp-tp:T     FSDP2 over tensor parallelism of T neighbours: rows of the column-parallel, columns of the
///   row-parallel
///                 matrices (o_proj, down_proj, ...) over T, then the rows over the others; vectors over the others
///                 alone
///   experts:E     the experts of ".experts." tensors over E ranks, each expert over the others; the rest flat
///   mesh:D/N,...  a mesh of N x ... ranks, the last varies fastest; each cuts dimension D, or none for "-"
///   ragged        Megatron's distributed optimizer: buckets cut evenly, at no tensor's border
///   owned         one owner each, in turns
///   replicated    all of it on every rank
/// With `stages` > 1 that many equal groups of neighbours hold the layers one after another, each by that layout.
/// Tensors that lack the dimension to be cut are replicated there. Throws bad_placement.
class placement {
 public:
  placement(std::string layout, int ranks, int stages);

  std::vector<unshard::any_layout> layouts_of(const std::vector<tensor>& model) const;

  /// Bytes at rest on the fullest rank and on rank 0, each storage once.
  struct at_rest {
    std::size_t fullest = 0;
    std::size_t rank_0 = 0;
  };
  at_rest bytes_at_rest(const std::vector<tensor>& model, const std::vector<unshard::any_layout>& layouts) const;

 private:
  unshard::any_layout in_stage(const tensor& t, std::size_t index) const;
  unshard::any_layout of_expert(const tensor& t) const;
  std::vector<unshard::any_layout> ragged(const std::vector<tensor>& model) const;
  unshard::any_layout meshed(const unshard::extents& shape, std::vector<unshard::mesh_dim> mesh) const;
  int number(std::string_view prefix, int most) const;
  [[noreturn]] void fail(const std::string& why) const;

  std::string text_;
  int ranks_;
  int stages_;
  int each_;  // ranks of a stage
  enum class kind { flat, dim, mesh, tensor_parallel, experts, ragged, owned, replicated } kind_ = kind::flat;
  int argument_ = 0;
  std::vector<std::pair<int, int>> mesh_;  // tensor dimension, or -1; size
};

}  // namespace unshard_plan
