#pragma once

#include <type_traits>

namespace mamba_scan::ops {

// Of whole numbers that are not negative, rounded up.
template <class Value, class Divisor>
constexpr std::common_type_t<Value, Divisor> ceil_div(Value value, Divisor divisor) {
  using Common = std::common_type_t<Value, Divisor>;
  return (static_cast<Common>(value) + static_cast<Common>(divisor) - 1) / static_cast<Common>(divisor);
}

}  // namespace mamba_scan::ops
