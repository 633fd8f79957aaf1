#include "jit/compile_log.h"

#include <charconv>
#include <optional>

namespace mamba_scan::jit {
namespace {

// The number right before `unit`: "256 bytes smem" with unit " bytes smem" gives 256.
std::optional<std::int64_t> number_before(std::string_view line, std::string_view unit) {
  const std::size_t end = line.find(unit);
  if (end == std::string_view::npos) return std::nullopt;
  std::size_t start = end;
  while (start > 0 && line[start - 1] >= '0' && line[start - 1] <= '9') --start;
  std::int64_t value = 0;
  const auto [stop, error] = std::from_chars(line.data() + start, line.data() + end, value);
  if (error != std::errc{}) return std::nullopt;
  return value;
}

void add(std::int64_t* total, std::optional<std::int64_t> part) {
  if (part) *total = *part + (*total > 0 ? *total : 0);
}

// The name after `marker`, up to a quote, a space or the end: "Function properties for k" gives "k".
std::string_view name_after(std::string_view line, std::string_view marker) {
  const std::size_t found = line.find(marker);
  if (found == std::string_view::npos) return {};
  line.remove_prefix(found + marker.size());
  return line.substr(0, line.find_first_of("' \t\r"));
}

}  // namespace

void read_compile_log(std::string_view log, std::string_view entry, BinaryInfo* info) {
  bool in_entry = false;             // what follows was compiled for our kernel
  bool properties_of_entry = false;  // the stack and spill line that comes next is the kernel's own
  while (!log.empty()) {
    const std::size_t end = log.find('\n');
    const std::string_view line = log.substr(0, end);
    log.remove_prefix(end == std::string_view::npos ? log.size() : end + 1);

    if (const auto name = name_after(line, "Compiling entry function '"); !name.empty()) in_entry = name == entry;
    if (const auto name = name_after(line, "Function properties for "); !name.empty()) {
      properties_of_entry = name == entry;
    }
    if (const auto stack = number_before(line, " bytes stack frame")) {
      if (!in_entry) continue;  // of another kernel in the same file
      if (properties_of_entry) info->local_bytes = *stack;
      add(&info->spill_store_bytes, number_before(line, " bytes spill stores"));
      add(&info->spill_load_bytes, number_before(line, " bytes spill loads"));
    }
    if (const auto registers = number_before(line, " registers"); registers && in_entry) {
      info->registers = static_cast<int>(*registers);
      info->shared_bytes = number_before(line, " bytes smem").value_or(0);  // not mentioned when there is none
    }
  }
}

}  // namespace mamba_scan::jit
