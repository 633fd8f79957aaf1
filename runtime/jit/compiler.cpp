#include "jit/compiler.h"

#include <chrono>

#include "jit/compile_log.h"
#include "jit/jit_error.h"

namespace mamba_scan::jit {
namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : " ") + word;
  return out;
}

}  // namespace

Binary compile(const NvrtcLibrary& nvrtc, const Variant& variant, const SourceBundle& bundle,
               const CompileTarget& target, const std::vector<std::string>& options) {
  const auto start = std::chrono::steady_clock::now();
  NvrtcOutput output = nvrtc.compile(bundle, options, target.is_ptx);
  const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
  if (!output.succeeded) {
    throw CompileError("the kernel " + variant.name() + " of " + variant.source + " does not compile for " +
                       target.arch + ": " + output.error + "\nNVRTC " + nvrtc.facts().version + " at " + nvrtc.path() +
                       "\noptions: " + joined(options) + "\n" + output.log);
  }
  Binary binary;
  binary.bytes.assign(output.binary.begin(), output.binary.end());
  binary.info.variant = variant.name();
  binary.info.entry = variant.entry;
  binary.info.arch = target.arch;
  binary.info.nvrtc_version = nvrtc.facts().version;
  binary.info.is_ptx = target.is_ptx;
  binary.info.compile_ms = elapsed.count();
  binary.info.log = std::move(output.log);
  binary.outcome = BuildOutcome::kCompiled;
  if (!target.is_ptx) read_compile_log(binary.info.log, variant.entry, &binary.info);
  return binary;
}

}  // namespace mamba_scan::jit
