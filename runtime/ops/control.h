// The control plane for programs and bindings: plain strings in, JSON text out, nothing on the path of a call.
// Every function throws mamba_scan::Error (or a subclass) when it cannot do what was asked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "platform/export.h"

namespace mamba_scan::ops {

// "0.1.0"
MAMBA_SCAN_API std::string package_version();

// What this machine offers. Never throws for something missing: that is what it reports. usable_devices: those that
// work and that an NVRTC here compiles for.
// {"package_version", "platform", "cpu": {"threads"}, "usable_devices",
//  "driver": {"found", "version", "path", "error"},
//  "devices": [{"ordinal", "name", "capability", "sm_count", ...every field of DeviceReport, "error"}],
//  "nvrtc": {"found", "version", "path", "place", "supported_archs",
//            "places_tried": [{"place", "where", "found"}], "error"},
//  "cache": {"folder", "entries", "bytes", "limit_bytes", "error"},
//  "kernel_source": {"origin", "files"},
//  "environment": {name: value of every MAMBA_SCAN_ variable that is set},
//  "warnings": [text], "remedies": [text]}
MAMBA_SCAN_API std::string doctor_json();

// {"folder", "bytes", "entries": [{"key", "variant", "arch", "bytes", "last_used", ...}]}
MAMBA_SCAN_API std::string cache_list_json();
// {"folder", "checked", "good", "removed": [key]}: broken entries are deleted.
MAMBA_SCAN_API std::string cache_verify_json();
// {"folder", "removed", "bytes"}
MAMBA_SCAN_API std::string cache_clear_json();

// Compiles the shipped kernels for each of `archs` ("sm_87", "87" or "8.7"); none given: for every device present.
// {"archs": [..], "compiled", "from_disk", "failed", "seconds",
//  "kernels": [{"variant", "arch", "outcome", "compile_ms", "registers", "shared_bytes", "local_bytes",
//               "spill_store_bytes", "spill_load_bytes", "nvrtc_version", "error"}]}
MAMBA_SCAN_API std::string warm_json(const std::vector<std::string>& archs);

struct SelfTestOptions {
  int problems = 12;  // random ones, per backend
  unsigned seed = 0;  // 0: from the clock; the seed used is in the answer
  bool use_cpu = true;
  bool use_cuda = true;  // every device present
  // On a device every problem runs by a plan drawn at random among those possible, in place of the model's or a tuned
  // one: so that all kernels are tested.
  bool any_plan = false;
};
// Random problems against a float64 loop that shares no code with the backends.
// {"seed", "passed", "cuda_unavailable", "backends": [{"backend", "name", "error", "passed", "problems":
//   [{"shape", "dtype", "features", "relative_error_y", "relative_error_state", "tolerance_y", "tolerance_state",
//     "plan", "passed", "ms"}]}]}
// plan: the choice that was drawn, as tune reports it, or null. cuda_unavailable: why there is no GPU to test, or null.
// A relative error of null: the output was not a number.
MAMBA_SCAN_API std::string self_test_json(const SelfTestOptions& options);

// A folder where NVRTC may lie, e.g. torch/lib; looked into before the usual places.
MAMBA_SCAN_API void add_nvrtc_search_folder(const std::string& folder);

// Records from now on what the runtime launches, compiles, copies. device_times: also times kernels with events.
MAMBA_SCAN_API void start_recording(bool device_times);
// Microseconds since the recording began; negative when nothing is being recorded.
MAMBA_SCAN_API double recording_now_us();
// A streamed chunk, which only the caller sees as a whole. Ignored when nothing is being recorded.
MAMBA_SCAN_API void report_chunk(std::int64_t index, std::int64_t first_step, std::int64_t steps, double start_us);
// Stops, and returns the recording as Chrome Trace Event JSON (object form). Throws when nothing is being recorded.
MAMBA_SCAN_API std::string stop_recording_json();

}  // namespace mamba_scan::ops
