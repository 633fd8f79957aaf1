// mamba_scan._runtime: the control plane for Python. JSON text goes through unparsed; mamba_scan._control parses it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <vector>

#include "cpu/instruction_sets.h"
#include "cpu/selective_scan.h"
#include "cpu_exp_rate.h"
#include "host_copy.h"
#include "ops/control.h"
#include "ops/tune.h"
#include "platform/error.h"
#include "scan_work.h"

namespace py = pybind11;

namespace {

// Compiling and reading a cache take time: other Python threads go on meanwhile.
using ReleaseGil = py::call_guard<py::gil_scoped_release>;

}  // namespace

PYBIND11_MODULE(_runtime, module) {
  using namespace mamba_scan;
  module.doc() = "Control of the mamba_scan runtime: device report, kernel cache, warm-up, recording.";

  // Registered in this order because the newest translator is asked first.
  static py::exception<Error> runtime_error(module, "Error", PyExc_RuntimeError);
  py::register_exception_translator([](std::exception_ptr pending) {
    try {
      if (pending) std::rethrow_exception(pending);
    } catch (const ArgumentError& error) {
      py::set_error(PyExc_ValueError, error.what());
    } catch (const Error& error) {
      py::set_error(runtime_error, error.what());
    }
  });

  module.def("package_version", &ops::package_version, "Version of the loaded runtime library.");
  module.def("doctor", &ops::doctor_json, ReleaseGil(), "JSON: driver, devices, NVRTC, cache, warnings, remedies.");
  module.def("cache_list", &ops::cache_list_json, ReleaseGil(), "JSON: folder and entries of the kernel cache.");
  module.def("cache_verify", &ops::cache_verify_json, ReleaseGil(), "JSON: entries checked, broken ones removed.");
  module.def("cache_clear", &ops::cache_clear_json, ReleaseGil(), "JSON: what was removed.");
  module.def("warm", &ops::warm_json, py::arg("archs"), ReleaseGil(), "JSON: kernels compiled for each architecture.");
  module.def(
      "self_test",
      [](int problems, unsigned seed, bool use_cpu, bool use_cuda, bool any_plan) {
        return ops::self_test_json({problems, seed, use_cpu, use_cuda, any_plan});
      },
      py::arg("problems") = 12, py::arg("seed") = 0, py::arg("use_cpu") = true, py::arg("use_cuda") = true,
      py::arg("any_plan") = false, ReleaseGil(), "JSON: random problems on every backend against a float64 loop.");
  module.def("cpu_exp_rate", &binding::cpu_exp_rate, py::arg("threads") = 0, py::arg("seconds") = 0.25, ReleaseGil(),
             "Exponentials per second of the CPU backend.");
  module.def(
      "scan_work",
      [](std::int64_t batch, std::int64_t seqlen, std::int64_t dim, std::int64_t dstate, std::int64_t groups,
         const std::string& dtype, const std::string& features, std::int64_t sequences) {
        return binding::scan_work({batch, seqlen, dim, dstate, groups, dtype, features, sequences});
      },
      py::arg("batch"), py::arg("seqlen"), py::arg("dim"), py::arg("dstate"), py::arg("groups"), py::arg("dtype"),
      py::arg("features") = "", py::arg("sequences") = 0, "The bytes and exponentials that a scan cannot do without.");
  module.def(
      "tune",
      [](std::int64_t batch, std::int64_t seqlen, std::int64_t dim, std::int64_t dstate, std::int64_t groups,
         const std::string& dtype, const std::string& layout, const std::vector<std::string>& scan_options,
         bool thorough, int candidates, int device) {
        ops::TuneOptions options;
        options.batch = batch;
        options.seqlen = seqlen;
        options.dim = dim;
        options.dstate = dstate;
        options.ngroups = groups;
        options.dtype = dtype;
        options.layout = layout;
        options.options = scan_options;
        options.thorough = thorough;
        options.candidates = candidates;
        options.device = device;
        return ops::tune_json(options);
      },
      py::arg("batch"), py::arg("seqlen"), py::arg("dim"), py::arg("dstate"), py::arg("groups"), py::arg("dtype"),
      py::arg("layout"), py::arg("options"), py::arg("thorough"), py::arg("candidates"), py::arg("device"),
      ReleaseGil(), "JSON: the plans timed for one scan, and the one that is kept for scans like it.");
  module.def("cpu_instruction_set", &cpu::instruction_set, "What the CPU backend uses, e.g. AVX2.");
  module.def("cpu_threads", &cpu::default_threads, "How many threads a scan on the CPU uses.");
  module.def(
      "copy_runs",
      [](std::uintptr_t destination, std::uintptr_t source, std::int64_t run_bytes,
         const std::vector<std::array<std::int64_t, 3>>& axes, int threads) {
        std::vector<binding::CopyAxis> list;
        for (const auto& [size, to, from] : axes) list.push_back({size, to, from});
        const py::gil_scoped_release release;
        binding::copy_runs(reinterpret_cast<std::byte*>(destination), reinterpret_cast<const std::byte*>(source),
                           run_bytes, list, threads);
      },
      py::arg("destination"), py::arg("source"), py::arg("run_bytes"), py::arg("axes"), py::arg("threads"),
      "Copy contiguous runs between host arrays on several threads; axes are (size, stride to, stride from) in bytes.");
  module.def("add_nvrtc_search_folder", &ops::add_nvrtc_search_folder, py::arg("folder"),
             "Look for NVRTC in this folder before the usual places.");
  module.def("start_recording", &ops::start_recording, py::arg("device_times") = false,
             "Record what the runtime launches, compiles and copies.");
  module.def("recording_now_us", &ops::recording_now_us,
             "Microseconds since the recording began; negative when nothing is being recorded.");
  module.def("report_chunk", &ops::report_chunk, py::arg("index"), py::arg("first_step"), py::arg("steps"),
             py::arg("start_us"), "Add a streamed chunk, which ends now, to the recording.");
  module.def("stop_recording", &ops::stop_recording_json, ReleaseGil(), "Stop; the recording as Chrome Trace JSON.");
}
