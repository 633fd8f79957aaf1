// The commands of mamba-scan: each asks the runtime for its JSON and shows it, as it is or as text.
#pragma once

#include <string>
#include <vector>

#include "ops/control.h"
#include "ops/tune.h"

namespace mamba_scan::cli {

// Each returns an exit code and lets mamba_scan::Error through.
int doctor(bool json, bool require_gpu);
int cache_list(bool json);
int cache_verify(bool json);
int cache_clear(bool json);
int warm(const std::vector<std::string>& archs, bool json);
int self_test(const ops::SelfTestOptions& options, bool json);
int tune(const ops::TuneOptions& options, bool json);

}  // namespace mamba_scan::cli
