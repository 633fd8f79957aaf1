// Numbers as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace mamba_scan::cli {

std::string bytes_text(std::uint64_t bytes);              // "12.3 MiB"
std::string fixed(double value, int decimals);            // fixed(1.26, 1) == "1.3"
std::string scientific(double value);                     // "1.2e-07"
std::string padded(std::string text, std::size_t width);  // spaces to the right
std::string local_time(double unix_seconds);              // "2026-03-01 14:05"

}  // namespace mamba_scan::cli
