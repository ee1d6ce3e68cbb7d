// expect-error: trivially copyable
#include "../archetypes.hpp"

void give([[maybe_unused]] const unshard::piece& p) {
#ifdef SHOULD_FAIL
  static_cast<void>(p.as<std::string>());
#endif
}
