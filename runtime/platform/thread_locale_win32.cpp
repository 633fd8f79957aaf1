#include <locale.h>

#include <string>

#include "platform/thread_locale.h"

namespace mamba_scan::platform {

struct ThreadLocaleGuard::Saved {
  int mode;
  std::string name;
};

// The thread gets a locale of its own for the duration, so that nothing done meanwhile reaches the other threads.
ThreadLocaleGuard::ThreadLocaleGuard() : saved_(new Saved{_configthreadlocale(_ENABLE_PER_THREAD_LOCALE), ""}) {
  if (const char* name = setlocale(LC_ALL, nullptr)) saved_->name = name;
}

ThreadLocaleGuard::~ThreadLocaleGuard() {
  setlocale(LC_ALL, saved_->name.c_str());
  if (saved_->mode != -1) _configthreadlocale(saved_->mode);
}

}  // namespace mamba_scan::platform
