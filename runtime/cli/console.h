// Between the shell and UTF-8. console_posix.cpp and console_win32.cpp hold the program's entry point.
#pragma once

#include <string>
#include <vector>

namespace mamba_scan::cli {

// The whole program: arguments in UTF-8 without the program's name; returns the exit code.
int run(const std::vector<std::string>& arguments);

}  // namespace mamba_scan::cli
