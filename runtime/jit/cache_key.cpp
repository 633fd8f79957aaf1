#include "jit/cache_key.h"

#include "jit/sha256.h"

namespace mamba_scan::jit {
namespace {

constexpr int kCacheSchema = 1;

// Every field with its length, so that no two different lists give the same bytes.
class KeyText {
 public:
  void add(const std::string& field) { hash_.update(std::to_string(field.size())).update(":").update(field); }
  std::string key() { return hash_.hex_digest(); }

 private:
  Sha256 hash_;
};

}  // namespace

std::string cache_key(const Variant& variant, const SourceBundle& bundle, const CompileTarget& target,
                      const std::vector<std::string>& options, const NvrtcFacts& facts) {
  KeyText key;
  key.add("mamba_scan kernel " + std::to_string(kCacheSchema));
  key.add(bundle.source.name);
  key.add(bundle.source.text);
  key.add(std::to_string(bundle.headers.size()));
  for (const SourceFile& header : bundle.headers) {
    key.add(header.name);
    key.add(header.text);
  }
  key.add(std::to_string(options.size()));
  for (const std::string& option : options) key.add(option);
  key.add(variant.entry);
  key.add(target.arch);
  key.add(facts.version);
  key.add(facts.build);
  return key.key();
}

}  // namespace mamba_scan::jit
