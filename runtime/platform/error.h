// Base of every exception the runtime throws. One subclass per layer boundary.
#pragma once

#include <stdexcept>
#include <string>

namespace mamba_scan {

// message = what was asked, what was found, what to do.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
};

// An argument that no backend can serve; names the argument, what came and what is needed.
class ArgumentError : public Error {
 public:
  using Error::Error;
};

}  // namespace mamba_scan
