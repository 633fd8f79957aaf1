// Marks what the shared library exports.
#pragma once

#if defined(_WIN32)
#if defined(MAMBA_SCAN_BUILDING_SHARED)
#define MAMBA_SCAN_API __declspec(dllexport)
#elif defined(MAMBA_SCAN_STATIC)
#define MAMBA_SCAN_API
#else
#define MAMBA_SCAN_API __declspec(dllimport)
#endif
#else
#define MAMBA_SCAN_API __attribute__((visibility("default")))
#endif
