# mamba_scan_highway: what the CPU backend links for vectors and run-time dispatch. Highway comes from the
# distribution (libhwy-dev, vcpkg: highway) or, for cross builds, from an unpacked source tree of which only the
# dispatcher is compiled: everything else we use is headers.
set(MAMBA_SCAN_HIGHWAY_DIR "" CACHE PATH "Highway source tree; empty: the installed library")

if(MAMBA_SCAN_HIGHWAY_DIR)
  if(NOT EXISTS ${MAMBA_SCAN_HIGHWAY_DIR}/hwy/targets.cc)
    message(FATAL_ERROR "MAMBA_SCAN_HIGHWAY_DIR is ${MAMBA_SCAN_HIGHWAY_DIR}, where there is no hwy/targets.cc. "
      "Give the top folder of an unpacked Highway source (1.0.3 or newer).")
  endif()
  # abort.cc exists since 1.1; before that targets.cc holds its contents.
  file(GLOB highway_sources ${MAMBA_SCAN_HIGHWAY_DIR}/hwy/targets.cc ${MAMBA_SCAN_HIGHWAY_DIR}/hwy/per_target.cc
    ${MAMBA_SCAN_HIGHWAY_DIR}/hwy/abort.cc)
  add_library(mamba_scan_highway STATIC ${highway_sources})
  # SYSTEM: its warnings are not ours.
  target_include_directories(mamba_scan_highway SYSTEM PUBLIC ${MAMBA_SCAN_HIGHWAY_DIR})
  target_compile_definitions(mamba_scan_highway PUBLIC HWY_STATIC_DEFINE)
  mamba_scan_target(mamba_scan_highway)
else()
  find_package(hwy 1.0.3 CONFIG QUIET)
  if(NOT hwy_FOUND)
    message(FATAL_ERROR "Highway 1.0.3 or newer was not found. Install it (Debian, Ubuntu: apt-get install libhwy-dev; "
      "vcpkg: highway) or give a source tree with -DMAMBA_SCAN_HIGHWAY_DIR=<folder>.")
  endif()
  add_library(mamba_scan_highway INTERFACE)
  target_link_libraries(mamba_scan_highway INTERFACE hwy::hwy)
endif()

# The scan keeps vectors in arrays, which vectors of unknown length (SVE) do not allow. Every A64 processor has NEON.
if(MAMBA_SCAN_HIGHWAY_DIR)
  set(scope PUBLIC)
else()
  set(scope INTERFACE)
endif()
target_compile_definitions(mamba_scan_highway ${scope}
  "HWY_DISABLED_TARGETS=(HWY_SVE|HWY_SVE2|HWY_SVE_256|HWY_SVE2_128)")
