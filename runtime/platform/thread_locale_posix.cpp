#include <locale.h>

#include "platform/thread_locale.h"

namespace mamba_scan::platform {

struct ThreadLocaleGuard::Saved {
  locale_t locale;
};

ThreadLocaleGuard::ThreadLocaleGuard() : saved_(new Saved{uselocale(static_cast<locale_t>(nullptr))}) {}

ThreadLocaleGuard::~ThreadLocaleGuard() { uselocale(saved_->locale); }

}  // namespace mamba_scan::platform
