# Windows x86-64 from Linux with the distribution's mingw-w64 (the posix flavour: std::thread, std::mutex).
set(CMAKE_SYSTEM_NAME Windows)
set(CMAKE_SYSTEM_PROCESSOR x86_64)

set(_triple x86_64-w64-mingw32)
set(CMAKE_C_COMPILER ${_triple}-gcc-posix)
set(CMAKE_CXX_COMPILER ${_triple}-g++-posix)
set(CMAKE_RC_COMPILER ${_triple}-windres)

set(CMAKE_FIND_ROOT_PATH /usr/${_triple})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)

# ctest runs programs through it. The wine64 loader itself and not the `wine` wrapper, which may print a hint
# about a missing 32-bit half into the program's output.
find_program(MAMBA_SCAN_WINE NAMES wine64 wine PATHS /usr/lib/wine)
if(MAMBA_SCAN_WINE)
  set(CMAKE_CROSSCOMPILING_EMULATOR ${MAMBA_SCAN_WINE})
endif()
