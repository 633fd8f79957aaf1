// What mamba-scan tells the shell.
#pragma once

namespace mamba_scan::cli {

constexpr int kDone = 0;
constexpr int kFoundWrong = 1;  // it ran, and what it looked at is not right: a failed scan, compile or cache entry
constexpr int kBadUsage = 2;
constexpr int kImpossible = 3;  // this machine lacks what the command needs; the message says what

}  // namespace mamba_scan::cli
