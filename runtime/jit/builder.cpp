#include "jit/builder.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "jit/cache_key.h"
#include "jit/compiler.h"
#include "jit/jit_error.h"
#include "platform/log.h"
#include "platform/processors.h"
#include "trace/recorder.h"

namespace mamba_scan::jit {
namespace {

void warn_of_ptx(const CompileTarget& target, int capability, const NvrtcChoice& nvrtc) {
  const std::string gpu = "sm_" + std::to_string(capability);
  platform::warn_once("ptx " + gpu, "this GPU (" + gpu + ") is newer than NVRTC " + nvrtc.facts.version + " at " +
                                        nvrtc.path + ": kernels are compiled for " + target.arch +
                                        " and finished by the driver, which takes longer at the first call and may be "
                                        "slower. A newer NVRTC helps: python -m pip install -U nvidia-cuda-nvrtc");
}

const char* outcome_name(BuildOutcome outcome) {
  switch (outcome) {
    case BuildOutcome::kMemory:
      return "memory";
    case BuildOutcome::kDisk:
      return "disk";
    default:
      return "compiled";
  }
}

// Tells the recorder, if there is one, how one build went.
class Report {
 public:
  Report(trace::Recorder* recorder, const Variant& variant) : recorder_(recorder) {
    if (recorder_ == nullptr) return;
    event_.variant = variant.name();
    event_.start_us = recorder_->now_us();
  }
  void set_plan(const std::string& arch, const std::string& key) {
    event_.arch = arch;
    event_.key = key;
  }
  void succeeded(const Binary& binary) {
    if (recorder_ == nullptr) return;
    event_.compile_ms = binary.info.compile_ms;
    finish(outcome_name(binary.outcome), binary.info.log);
  }
  void failed(const std::string& message) {
    if (recorder_ != nullptr) finish("failed", message);
  }

 private:
  void finish(const std::string& outcome, const std::string& log) {
    event_.outcome = outcome;
    event_.log = log;
    event_.duration_us = recorder_->now_us() - event_.start_us;
    recorder_->compile(event_);
  }

  trace::Recorder* recorder_;
  trace::Compile event_;
};

}  // namespace

// Everything that decides the bytes of one binary.
struct Builder::Plan {
  SourceBundle bundle;
  NvrtcChoice nvrtc;
  CompileTarget target;
  std::vector<std::string> options;
  std::string key;
};

struct Builder::State {
  std::mutex mutex;  // guards what follows; never held while compiling
  int driver_cuda_version = 0;
  bool line_info = false;
  std::vector<std::string> search_folders;
  std::map<int, NvrtcChoice> choices;  // by capability
  std::atomic<trace::Recorder*> recorder{nullptr};

  std::mutex library_mutex;
  std::map<std::string, std::shared_ptr<const NvrtcLibrary>> libraries;  // by path

  std::shared_ptr<const NvrtcLibrary> library(const std::string& path) {
    std::lock_guard lock(library_mutex);
    std::shared_ptr<const NvrtcLibrary>& slot = libraries[path];
    if (!slot) slot = NvrtcLibrary::load(path);
    return slot;
  }

  // What a library that is loaded says of itself, in place of what was said of its file before.
  void correct(const NvrtcLibrary& library) {
    std::lock_guard lock(mutex);
    for (auto& [capability, choice] : choices)
      if (choice.path == library.path()) choice.facts = library.facts();
  }
};

Builder::Builder() : Builder(KernelSources::from_environment(), DiskCache::from_environment(), nullptr) {}

Builder::Builder(KernelSources sources, std::unique_ptr<DiskCache> cache, std::unique_ptr<NvrtcEnvironment> nvrtc)
    : sources_(std::move(sources)),
      cache_(std::move(cache)),
      environment_(nvrtc ? std::move(nvrtc) : system_nvrtc_environment(cache_.get())),
      state_(std::make_unique<State>()) {}

Builder::~Builder() = default;

NvrtcSearch Builder::search_nvrtc(int capability) {
  NvrtcNeed need;
  std::vector<std::string> folders;
  {
    std::lock_guard lock(state_->mutex);
    need = {capability, state_->driver_cuda_version};
    folders = state_->search_folders;
  }
  return find_nvrtc(*environment_, need, folders);
}

NvrtcChoice Builder::choose_nvrtc(int capability) {
  {
    std::lock_guard lock(state_->mutex);
    if (const auto found = state_->choices.find(capability); found != state_->choices.end()) return found->second;
  }
  NvrtcSearch search = search_nvrtc(capability);
  if (!search.choice) throw JitError(search.error);  // not remembered: a search folder may still be added
  std::lock_guard lock(state_->mutex);
  return state_->choices.try_emplace(capability, std::move(*search.choice)).first->second;
}

Builder::Plan Builder::plan(const Variant& variant, int capability) {
  Plan plan;
  plan.bundle = sources_.bundle(variant.source);
  plan.nvrtc = choose_nvrtc(capability);
  plan.target = choose_target(capability, plan.nvrtc.facts);
  bool line_info = false;
  {
    std::lock_guard lock(state_->mutex);
    line_info = state_->line_info;
  }
  plan.options = compile_options(variant, plan.target, plan.nvrtc.facts, line_info);

  plan.key = jit::cache_key(variant, plan.bundle, plan.target, plan.options, plan.nvrtc.facts);
  return plan;
}

std::string Builder::cache_key(const Variant& variant, int capability) { return plan(variant, capability).key; }

Binary Builder::build(const Variant& variant, int capability) {
  Report report(state_->recorder.load(), variant);
  try {
    Plan plan = this->plan(variant, capability);
    report.set_plan(plan.target.arch, plan.key);
    std::optional<Binary> binary = cache_->load(plan.key);
    std::shared_ptr<const NvrtcLibrary> nvrtc;
    if (!binary) {
      nvrtc = state_->library(plan.nvrtc.path);
      if (nvrtc->facts() != plan.nvrtc.facts) {  // the file has been replaced since it was asked
        state_->correct(*nvrtc);
        plan = this->plan(variant, capability);
        report.set_plan(plan.target.arch, plan.key);
        binary = cache_->load(plan.key);
      }
    }
    if (plan.target.is_ptx) warn_of_ptx(plan.target, capability, plan.nvrtc);
    if (!binary) {
      binary = compile(*nvrtc, variant, plan.bundle, plan.target, plan.options);
      platform::log(platform::LogLevel::kDebug, "compiled " + binary->info.variant + " for " + binary->info.arch +
                                                    " in " + std::to_string(static_cast<int>(binary->info.compile_ms)) +
                                                    " ms");
      cache_->store(plan.key, *binary);
    }
    report.succeeded(*binary);
    return std::move(*binary);
  } catch (const Error& error) {
    report.failed(error.what());
    throw;
  }
}

std::vector<BuildResult> Builder::build_many(const std::vector<Variant>& variants, int capability, int threads) {
  std::vector<BuildResult> results(variants.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < variants.size(); i = next++) {
      try {
        results[i].binary = build(variants[i], capability);
      } catch (const std::exception& error) {
        results[i].error = error.what();
      }
    }
  };
  const auto wanted = static_cast<std::size_t>(threads > 0 ? threads : platform::usable_processors());
  std::vector<std::jthread> others;
  try {
    for (std::size_t i = 1; i < std::min(wanted, variants.size()); ++i) others.emplace_back(work);
  } catch (const std::system_error&) {  // the system gives no more threads: those there are do the work
  }
  work();
  others.clear();  // joins
  return results;
}

void Builder::set_driver_cuda_version(int version) {
  std::lock_guard lock(state_->mutex);
  if (state_->driver_cuda_version != version) state_->choices.clear();
  state_->driver_cuda_version = version;
}

void Builder::add_search_folder(const std::string& folder) {
  std::lock_guard lock(state_->mutex);
  auto& folders = state_->search_folders;
  if (std::find(folders.begin(), folders.end(), folder) != folders.end()) return;
  folders.push_back(folder);
  state_->choices.clear();
}

void Builder::set_line_info(bool enabled) {
  std::lock_guard lock(state_->mutex);
  state_->line_info = enabled;
}

void Builder::set_recorder(trace::Recorder* recorder) { state_->recorder = recorder; }

}  // namespace mamba_scan::jit
