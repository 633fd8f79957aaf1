// The JSON beside a cached binary, protected by a checksum of its own so that no damaged number is ever reported.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "jit/binary.h"

namespace mamba_scan::jit {

// Text of `object` (a JSON object) with its checksum in it, and back; nothing for anything damaged.
std::string seal(nlohmann::json object);
std::optional<nlohmann::json> unseal(const std::string& text);

struct CacheRecord {
  std::string key;
  std::string payload_sha256;
  std::uint64_t payload_bytes = 0;
  std::int64_t created_unix_s = 0;
  BinaryInfo info;
};

std::string to_text(const CacheRecord& record);
// Nothing when it is damaged, of another schema, or belongs to another key.
std::optional<CacheRecord> read_record(const std::string& text, const std::string& key);

}  // namespace mamba_scan::jit
