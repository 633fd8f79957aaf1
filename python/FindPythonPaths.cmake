# Sets MAMBA_SCAN_TORCH_DIR, MAMBA_SCAN_PYTHON_{INCLUDE_DIR,LIBRARY,SUFFIX} and MAMBA_SCAN_PYBIND11_INCLUDE_DIR, from
# the cache where given, else from the interpreter. Nothing is imported, so asking takes milliseconds.
set(MAMBA_SCAN_TORCH_DIR "" CACHE PATH "Folder of the torch package to build against")
set(MAMBA_SCAN_PYTHON_INCLUDE_DIR "" CACHE PATH "Folder of Python.h")
set(MAMBA_SCAN_PYTHON_LIBRARY "" CACHE FILEPATH "Import library of Python (Windows)")
set(MAMBA_SCAN_PYTHON_SUFFIX "" CACHE STRING "File name suffix of extension modules")
set(MAMBA_SCAN_PYBIND11_INCLUDE_DIR "" CACHE PATH "Folder of the pybind11 headers")

set(_asked TORCH_DIR PYTHON_INCLUDE_DIR PYTHON_SUFFIX PYBIND11_INCLUDE_DIR)
if(WIN32)
  list(APPEND _asked PYTHON_LIBRARY)
endif()

set(_missing)
foreach(_name IN LISTS _asked)
  if(NOT MAMBA_SCAN_${_name})
    list(APPEND _missing ${_name})
  endif()
endforeach()

if(_missing)
  if(CMAKE_CROSSCOMPILING)
    list(TRANSFORM _missing PREPEND MAMBA_SCAN_)
    message(FATAL_ERROR "Cross-compiling the Python package: no interpreter of the target can be asked. Set ${_missing}.")
  endif()
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)
  set(_code [=[
import importlib.util, os, sys, sysconfig
def package(name):
    spec = importlib.util.find_spec(name)
    return spec.submodule_search_locations[0] if spec else ""
torch, pybind11 = package("torch"), package("pybind11")
values = {
    "TORCH_DIR": torch,
    "PYTHON_INCLUDE_DIR": sysconfig.get_path("include"),
    "PYTHON_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
    "PYBIND11_INCLUDE_DIR": os.path.join(pybind11, "include") if pybind11 else "",
    "PYTHON_LIBRARY": os.path.join(sys.base_prefix, "libs", "python%d%d.lib" % sys.version_info[:2]),
}
for name, value in values.items():
    print(name + "=" + value.replace(os.sep, "/"))
]=])
  execute_process(COMMAND ${Python_EXECUTABLE} -c "${_code}" OUTPUT_VARIABLE _answer COMMAND_ERROR_IS_FATAL ANY)
  foreach(_name IN LISTS _missing)
    string(REGEX MATCH "${_name}=([^\r\n]*)" _line "${_answer}")
    if(CMAKE_MATCH_1 STREQUAL "")
      message(FATAL_ERROR "${Python_EXECUTABLE} has no torch or no pybind11 (${_name} not found). "
        "Install both, or name another interpreter with -DPython_EXECUTABLE=...")
    endif()
    set(MAMBA_SCAN_${_name} "${CMAKE_MATCH_1}")
  endforeach()
endif()

if(NOT EXISTS ${MAMBA_SCAN_TORCH_DIR}/include/torch/csrc/stable/library.h)
  message(FATAL_ERROR "${MAMBA_SCAN_TORCH_DIR} is no torch of 2.10 or later: include/torch/csrc/stable is missing.")
endif()
if(NOT EXISTS ${MAMBA_SCAN_PYTHON_INCLUDE_DIR}/Python.h)
  message(FATAL_ERROR "No Python.h in ${MAMBA_SCAN_PYTHON_INCLUDE_DIR}; install the development files of Python.")
endif()
