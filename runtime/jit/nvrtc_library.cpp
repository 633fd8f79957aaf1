#include "jit/nvrtc_library.h"

#include <algorithm>
#include <optional>

#include "jit/jit_error.h"
#include "jit/nvrtc_names.h"
#include "platform/files.h"
#include "platform/paths.h"
#include "platform/thread_locale.h"

namespace mamba_scan::jit {
namespace {

using Program = struct NvrtcProgramTag*;
using Result = int;  // 0: success

}  // namespace

// The part of nvrtc.h that is used; these signatures have not changed since CUDA 8 (the first two lines of
// supported architectures: 11.2).
struct NvrtcLibrary::Functions {
  Result (*version)(int*, int*);
  Result (*arch_count)(int*);
  Result (*archs)(int*);
  Result (*create)(Program*, const char* source, const char* name, int count, const char* const* headers,
                   const char* const* names);
  Result (*destroy)(Program*);
  Result (*compile)(Program, int count, const char* const* options);
  Result (*log_size)(Program, std::size_t*);
  Result (*log)(Program, char*);
  Result (*cubin_size)(Program, std::size_t*);
  Result (*cubin)(Program, char*);
  Result (*ptx_size)(Program, std::size_t*);
  Result (*ptx)(Program, char*);
  const char* (*error_string)(Result);
};

namespace {

template <typename Function>
void bind(const platform::DynamicLibrary& library, const std::string& path, const char* name, Function* function) {
  *function = library.function<Function>(name);
  if (*function == nullptr) {
    throw JitError(path + " is not a usable NVRTC: it has no function " + name + " (CUDA 11.2 or newer has it)");
  }
}

template <typename Size, typename Get>
std::string fetch(Program program, Size size_of, Get get) {
  std::size_t size = 0;
  if (size_of(program, &size) != 0 || size == 0) return {};
  std::string text(size, '\0');
  return get(program, text.data()) == 0 ? text : std::string();
}

void drop_terminator(std::string& text) {
  while (!text.empty() && text.back() == '\0') text.pop_back();
}

std::string word_after(const std::string& text, const std::string& marker) {
  const std::size_t found = text.find(marker);
  if (found == std::string::npos) return {};
  const std::size_t start = found + marker.size();
  return text.substr(start, text.find_first_of(" \t\r\n", start) - start);
}

}  // namespace

bool NvrtcFacts::lists(int capability) const { return std::binary_search(archs.begin(), archs.end(), capability); }

NvrtcLibrary::NvrtcLibrary(const std::string& path, platform::DynamicLibrary library)
    : path_(path), library_(std::move(library)) {
  library_.keep_loaded();
  auto functions = std::make_shared<Functions>();
  bind(library_, path, "nvrtcVersion", &functions->version);
  bind(library_, path, "nvrtcGetNumSupportedArchs", &functions->arch_count);
  bind(library_, path, "nvrtcGetSupportedArchs", &functions->archs);
  bind(library_, path, "nvrtcCreateProgram", &functions->create);
  bind(library_, path, "nvrtcDestroyProgram", &functions->destroy);
  bind(library_, path, "nvrtcCompileProgram", &functions->compile);
  bind(library_, path, "nvrtcGetProgramLogSize", &functions->log_size);
  bind(library_, path, "nvrtcGetProgramLog", &functions->log);
  bind(library_, path, "nvrtcGetCUBINSize", &functions->cubin_size);
  bind(library_, path, "nvrtcGetCUBIN", &functions->cubin);
  bind(library_, path, "nvrtcGetPTXSize", &functions->ptx_size);
  bind(library_, path, "nvrtcGetPTX", &functions->ptx);
  bind(library_, path, "nvrtcGetErrorString", &functions->error_string);
  functions_ = std::move(functions);
}

std::shared_ptr<const NvrtcLibrary> NvrtcLibrary::load(const std::string& path) {
  std::string why;
  std::optional<platform::DynamicLibrary> library = platform::DynamicLibrary::try_open(path, &why);
  if (!library) throw JitError("NVRTC at " + path + " cannot be loaded: " + why);
  std::shared_ptr<NvrtcLibrary> nvrtc(new NvrtcLibrary(path, std::move(*library)));
  nvrtc->functions_->version(&nvrtc->facts_.major, &nvrtc->facts_.minor);
  nvrtc->load_builtins();
  nvrtc->read_facts();
  return nvrtc;
}

// NVRTC opens its builtins by bare name and has no search path of its own (the pip packages set no RUNPATH), so it
// finds them only if they are loaded already.
void NvrtcLibrary::load_builtins() const {
  const std::string folder = platform::parent_folder(path_);
  for (NvrtcNaming naming : {NvrtcNaming::kLinux, NvrtcNaming::kWindows}) {
    const std::string file = platform::join(folder, builtins_name(naming, facts_.major, facts_.minor));
    if (!platform::is_file(file)) continue;
    if (auto builtins = platform::DynamicLibrary::try_open(file, nullptr)) builtins->keep_loaded();
    return;
  }
}

void NvrtcLibrary::read_facts() {
  int count = 0;
  if (functions_->arch_count(&count) == 0 && count > 0) {
    facts_.archs.resize(static_cast<std::size_t>(count));
    if (functions_->archs(facts_.archs.data()) != 0) facts_.archs.clear();
    std::sort(facts_.archs.begin(), facts_.archs.end());
  }
  if (facts_.archs.empty()) throw JitError("NVRTC at " + path_ + " lists no GPU architecture");

  // nvrtcVersion() says "13.0"; the exact release stands in what it compiles. The empty program also proves that
  // the builtins are there and fit.
  const NvrtcOutput probe =
      compile({{"probe.cu", ""}, {}}, {"--gpu-architecture=compute_" + std::to_string(facts_.archs.back())}, true);
  if (!probe.succeeded) {
    std::string log = probe.log;
    while (!log.empty() && (log.back() == '\n' || log.back() == ' ')) log.pop_back();
    throw JitError("NVRTC at " + path_ + " does not work: " + probe.error + ": " + log);
  }
  const std::string short_version = std::to_string(facts_.major) + "." + std::to_string(facts_.minor);
  facts_.version = word_after(probe.binary, "release " + short_version + ", V");
  if (facts_.version.empty()) facts_.version = short_version;
  facts_.build = word_after(probe.binary, "Compiler Build ID: ");
}

NvrtcOutput NvrtcLibrary::compile(const SourceBundle& bundle, const std::vector<std::string>& options,
                                  bool to_ptx) const {
  std::vector<const char*> texts, names, flags;
  for (const SourceFile& header : bundle.headers) {
    texts.push_back(header.text.c_str());
    names.push_back(header.name.c_str());
  }
  for (const std::string& option : options) flags.push_back(option.c_str());

  // Releases before 12.6.2 leave the calling thread with another locale.
  std::optional<platform::ThreadLocaleGuard> locale;
  if (facts_.major < 12 || (facts_.major == 12 && facts_.minor <= 6)) locale.emplace();

  NvrtcOutput out;
  Program program = nullptr;
  Result result = functions_->create(&program, bundle.source.text.c_str(), bundle.source.name.c_str(),
                                     static_cast<int>(texts.size()), texts.data(), names.data());
  if (result == 0) {
    result = functions_->compile(program, static_cast<int>(flags.size()), flags.data());
    out.log = fetch(program, functions_->log_size, functions_->log);
    drop_terminator(out.log);
  }
  if (result == 0) {
    out.binary = to_ptx ? fetch(program, functions_->ptx_size, functions_->ptx)
                        : fetch(program, functions_->cubin_size, functions_->cubin);
    out.succeeded = !out.binary.empty();
    if (!out.succeeded) out.error = "NVRTC returned no binary";
  } else {
    out.error = functions_->error_string(result);
  }
  if (program != nullptr) functions_->destroy(&program);
  return out;
}

}  // namespace mamba_scan::jit
