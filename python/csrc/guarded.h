// The border between our exceptions and torch's frames.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstring>
#include <exception>

namespace mamba_scan::binding {

// Runs `body`; an exception of ours is caught here and, outside the handler, becomes one that torch throws itself:
// frames of torch built with another compiler cannot be unwound by ours. The message lives in a plain array
// because no destructor of this frame will run.
template <typename Body>
void guarded(const char* name, const char* file, std::uint32_t line, const Body& body) {
  char message[8192];
  bool failed = false;
  const auto keep = [&](const char* text) {
    failed = true;
    std::strncpy(message, text, sizeof(message) - 1);
    message[sizeof(message) - 1] = '\0';
  };
  try {
    body();
  } catch (const std::exception& error) {
    keep(error.what());
  } catch (...) {
    keep("an unknown error");
  }
  if (failed) aoti_torch_check(false, name, file, line, message);
}

}  // namespace mamba_scan::binding
