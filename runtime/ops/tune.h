// Measures what a plan's model would otherwise decide.
#pragma once

#include <string>
#include <vector>

#include "platform/export.h"
#include "selective_scan/problem.h"

namespace mamba_scan::ops {

inline const std::vector<std::string> kTuneOptionNames = {
    "z", "D", "delta_bias", "delta_softplus", "initial_state", "final_state", "reverse"};

struct TuneOptions {
  Index batch = 1;
  Index seqlen = 1;
  Index dim = 1;
  Index dstate = 16;
  Index ngroups = 1;
  std::string dtype = "float16";
  std::string layout = "bld";
  // Which of the scan's options it has: any of kTuneOptionNames.
  std::vector<std::string> options;
  int device = 0;
  int candidates = 6;     // the ones that the model thinks fastest
  double seconds = 0.3;   // of measuring, for each
  bool thorough = false;  // goes on with what differs from the fastest in one detail, until none is faster
};

// Times the candidates on made-up inputs, in turns, and keeps the fastest, for this process and those to come, where it
// is 2 % faster than the model's choice.
// {"device", "problem", "candidates": [{"lanes", "channels", "cut", "tile", "unroll", "stages", "min_blocks", "warps",
// "slices", "served", "whole_rows", "abreast", "wrapped", "together", "expected_us", "us"}], "chosen": index, "us",
// "untuned_us", "kept": true when another than the model's is, "summary": a line for people}. The model's choice is the
// first candidate; the details are PlanChoice's. Throws ArgumentError for a problem that cannot be, DriverError where
// there is no such device.
MAMBA_SCAN_API std::string tune_json(const TuneOptions& options);

}  // namespace mamba_scan::ops
