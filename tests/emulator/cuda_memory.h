// Loads and stores with cache hints, and atomic operations. Part of cuda_language.h.
#pragma once

#define EMULATED_LOAD(NAME)                 \
  template <class Value>                    \
  inline Value NAME(const Value* address) { \
    return *address;                        \
  }
#define EMULATED_STORE(NAME)                             \
  template <class Value>                                 \
  inline void NAME(Value* address, const Value& value) { \
    *address = value;                                    \
  }
EMULATED_LOAD(__ldg)
EMULATED_LOAD(__ldca)
EMULATED_LOAD(__ldcg)
EMULATED_LOAD(__ldcs)
EMULATED_LOAD(__ldlu)
EMULATED_LOAD(__ldcv)
EMULATED_STORE(__stwb)
EMULATED_STORE(__stcg)
EMULATED_STORE(__stcs)
EMULATED_STORE(__stwt)
#undef EMULATED_LOAD
#undef EMULATED_STORE

// Threads change places only where they wait, so an operation in one piece is atomic. It reports itself as such;
// the instrumentation must not report its parts once more.
namespace emulator {
template <class Value, class Change>
__attribute__((noinline, no_sanitize("thread"))) Value atomic_update(Value* address, Change change) {
  atomic_access(address, sizeof(Value));
  const Value old = *address;
  *address = change(old);
  return old;
}
}  // namespace emulator

#define EMULATED_ATOMIC(NAME, EXPRESSION)                                                                     \
  template <class Value>                                                                                      \
  inline Value NAME(Value* address, std::type_identity_t<Value> value) {                                      \
    return ::emulator::atomic_update(                                                                         \
        address, [value] __attribute__((no_sanitize("thread"))) (Value old) -> Value { return EXPRESSION; }); \
  }
EMULATED_ATOMIC(atomicAdd, old + value)
EMULATED_ATOMIC(atomicSub, old - value)
EMULATED_ATOMIC(atomicExch, (static_cast<void>(old), value))
EMULATED_ATOMIC(atomicMin, old < value ? old : value)
EMULATED_ATOMIC(atomicMax, old < value ? value : old)
EMULATED_ATOMIC(atomicAnd, old& value)
EMULATED_ATOMIC(atomicOr, old | value)
EMULATED_ATOMIC(atomicXor, old ^ value)
EMULATED_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
EMULATED_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
#undef EMULATED_ATOMIC

template <class Value>
inline Value atomicCAS(Value* address, std::type_identity_t<Value> expected, std::type_identity_t<Value> value) {
  return ::emulator::atomic_update(address,
                                   [expected, value] __attribute__((no_sanitize("thread"))) (Value old) -> Value {
                                     return old == expected ? value : old;
                                   });
}
