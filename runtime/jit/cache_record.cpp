#include "jit/cache_record.h"

#include <nlohmann/json.hpp>

#include "jit/sha256.h"

namespace mamba_scan::jit {
namespace {

using nlohmann::json;

constexpr int kRecordSchema = 1;
constexpr const char* kChecksum = "checksum";

// A compiler's log may hold bytes that are not UTF-8; they are replaced, never a reason to fail.
std::string dump(const json& value, int indent) {
  return value.dump(indent, ' ', false, json::error_handler_t::replace);
}

}  // namespace

std::string seal(json object) {
  object.erase(kChecksum);
  // Through text and back, so that the checksum is of what a reader will see (doubles, replaced bytes).
  object = json::parse(dump(object, -1));
  object[kChecksum] = sha256_hex(dump(object, -1));
  return dump(object, 1) + "\n";
}

std::optional<json> unseal(const std::string& text) {
  json object = json::parse(text, nullptr, false);
  if (!object.is_object() || !object.contains(kChecksum) || !object[kChecksum].is_string()) return std::nullopt;
  const std::string checksum = object[kChecksum];
  object.erase(kChecksum);
  if (sha256_hex(dump(object, -1)) != checksum) return std::nullopt;
  return object;
}

std::string to_text(const CacheRecord& record) {
  const BinaryInfo& info = record.info;
  return seal({{"schema", kRecordSchema},
               {"key", record.key},
               {"payload_sha256", record.payload_sha256},
               {"payload_bytes", record.payload_bytes},
               {"created", record.created_unix_s},
               {"variant", info.variant},
               {"entry", info.entry},
               {"arch", info.arch},
               {"nvrtc_version", info.nvrtc_version},
               {"is_ptx", info.is_ptx},
               {"registers", info.registers},
               {"shared_bytes", info.shared_bytes},
               {"local_bytes", info.local_bytes},
               {"spill_store_bytes", info.spill_store_bytes},
               {"spill_load_bytes", info.spill_load_bytes},
               {"compile_ms", info.compile_ms},
               {"log", info.log}});
}

std::optional<CacheRecord> read_record(const std::string& text, const std::string& key) {
  const std::optional<json> object = unseal(text);
  if (!object) return std::nullopt;
  try {
    if (object->at("schema") != kRecordSchema || object->at("key") != key) return std::nullopt;
    CacheRecord record;
    record.key = key;
    record.payload_sha256 = object->at("payload_sha256");
    record.payload_bytes = object->at("payload_bytes");
    record.created_unix_s = object->at("created");
    BinaryInfo& info = record.info;
    info.variant = object->at("variant");
    info.entry = object->at("entry");
    info.arch = object->at("arch");
    info.nvrtc_version = object->at("nvrtc_version");
    info.is_ptx = object->at("is_ptx");
    info.registers = object->at("registers");
    info.shared_bytes = object->at("shared_bytes");
    info.local_bytes = object->at("local_bytes");
    info.spill_store_bytes = object->at("spill_store_bytes");
    info.spill_load_bytes = object->at("spill_load_bytes");
    info.compile_ms = object->at("compile_ms");
    info.log = object->at("log");
    return record;
  } catch (const json::exception&) {
    return std::nullopt;  // sealed by a version with other fields
  }
}

}  // namespace mamba_scan::jit
