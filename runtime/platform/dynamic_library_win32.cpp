#include "platform/dynamic_library.h"
#include "platform/win32.h"

namespace mamba_scan::platform {
namespace {

// Missing dependencies otherwise open a dialog on the user's screen.
HMODULE load_quietly(const std::wstring& name, DWORD flags, std::string* why) {
  DWORD previous = 0;
  const BOOL changed = SetThreadErrorMode(SEM_FAILCRITICALERRORS | SEM_NOOPENFILEERRORBOX, &previous);
  HMODULE module = LoadLibraryExW(name.c_str(), nullptr, flags);
  const DWORD code = GetLastError();
  if (changed) SetThreadErrorMode(previous, nullptr);
  if (module == nullptr && why != nullptr) *why = win32_message(code);
  return module;
}

}  // namespace

std::optional<DynamicLibrary> DynamicLibrary::try_open(const std::string& path, std::string* why) {
  std::wstring file = win32_path(path);
  // The loader takes \\?\ only grudgingly (module names keep it); it is needed for long paths alone.
  if (file.starts_with(L"\\\\?\\") && !file.starts_with(L"\\\\?\\UNC\\") && file.size() < MAX_PATH) file.erase(0, 4);
  HMODULE module = load_quietly(file, LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR | LOAD_LIBRARY_SEARCH_DEFAULT_DIRS, why);
  if (module == nullptr) return std::nullopt;
  return DynamicLibrary(module);
}

std::optional<DynamicLibrary> DynamicLibrary::try_open_system(const std::string& name, std::string* why) {
  HMODULE module = load_quietly(to_wide(name), LOAD_LIBRARY_SEARCH_SYSTEM32, why);
  if (module == nullptr) return std::nullopt;
  return DynamicLibrary(module);
}

std::optional<DynamicLibrary> DynamicLibrary::find_loaded(const std::string& name) {
  HMODULE module = nullptr;
  if (!GetModuleHandleExW(0, to_wide(name).c_str(), &module)) return std::nullopt;
  return DynamicLibrary(module);
}

void* DynamicLibrary::symbol(const char* name) const noexcept {
  if (handle_ == nullptr) return nullptr;
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(handle_), name));
}

std::string DynamicLibrary::path() const {
  if (handle_ == nullptr) return {};
  std::wstring name(MAX_PATH, L'\0');
  for (;;) {
    const DWORD length =
        GetModuleFileNameW(static_cast<HMODULE>(handle_), name.data(), static_cast<DWORD>(name.size()));
    if (length == 0) return {};
    if (length < name.size()) {
      name.resize(length);
      return without_prefix(name);
    }
    name.resize(name.size() * 2);
  }
}

void DynamicLibrary::close() noexcept {
  if (handle_ != nullptr && !keep_loaded_) FreeLibrary(static_cast<HMODULE>(handle_));
  handle_ = nullptr;
}

}  // namespace mamba_scan::platform
