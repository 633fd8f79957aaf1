#include "cli/console.h"

int main(int argc, char** argv) {
  return mamba_scan::cli::run(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
}
