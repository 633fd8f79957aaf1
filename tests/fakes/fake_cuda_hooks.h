// What the fake driver offers tests beside the driver's own functions. All of it is exported with C linkage.
//
// Settings are text, "key=value" joined by ';'. They come from the environment variable MAMBA_SCAN_FAKE_CUDA when the
// library is first used, or from fake_cuda_reset():
//   version=12080              what cuDriverGetVersion says
//   devices=90:132:NVIDIA H200 capability:SMs:name[:flag[:flag]], joined by ','; flags: integrated, watchdog,
//                              kHz1000000 (the clock); empty: no device, cuInit fails
//   memory=1073741824          bytes per device; allocations beyond it fail
//   no_get_proc_address=1      cuGetProcAddress answers "not supported" to everything
//   hidden=cuEventQuery        names, joined by ',', that cuGetProcAddress does not find
//   fail=cuMemAlloc:2          every call returns this CUresult; cuMemAlloc:2@3 only the third, cuMemAlloc:2@3+ from
//                              the third on; joined by ','
#pragma once

extern "C" {

// Forgets everything: settings, objects, journal.
using FakeCudaReset = void (*)(const char* settings);

// One line per call that changes something, e.g.
//   "cuLaunchKernelEx selective_scan_forward grid=8,1,1 block=128,1,1 shared=0 stream=1 device=0"
// Streams are numbered from 1 in the order of their making; 0 is the default stream. Valid until the next call here.
using FakeCudaJournal = const char* (*)();

// How many calls of a driver function, or of: resolved (answers of cuGetProcAddress), live_allocations, live_bytes,
// live_pinned, live_streams, live_events, live_libraries, live_modules, retained_contexts, pushed_contexts (on this
// thread), misuse (double frees and the like, which a real driver may not survive).
using FakeCudaCount = long long (*)(const char* what);

// Runs in the place of kernels: gets the kernel's name and its arguments. Device memory is host memory.
using FakeCudaKernel = void (*)(const char* entry, void** arguments);
using FakeCudaOnLaunch = void (*)(FakeCudaKernel kernel);

// Sets the clock on, by which events are timed and which nothing else moves but launches, by a microsecond each: a
// kernel that takes longer says so. Tests that measure thus get the same times on a busy machine as on an idle one.
using FakeCudaPassTime = void (*)(double microseconds);
}
