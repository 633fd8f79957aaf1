# mamba_scan_embed_kernels(<target> <root> <file>...): a static library whose one function,
# mamba_scan::jit::embedded_kernels(), returns the text of every file, named by its path below <root>.
function(mamba_scan_embed_kernels target root)
  set(generated ${CMAKE_CURRENT_BINARY_DIR}/${target}.cpp)
  set(paths)
  foreach(file IN LISTS ARGN)
    list(APPEND paths ${root}/${file})
  endforeach()
  string(REPLACE ";" "|" names "${ARGN}")
  add_custom_command(
    OUTPUT ${generated}
    COMMAND ${CMAKE_COMMAND} -DROOT=${root} "-DFILES=${names}" -DOUTPUT=${generated}
            -P ${PROJECT_SOURCE_DIR}/cmake/WriteEmbeddedKernels.cmake
    DEPENDS ${paths} ${PROJECT_SOURCE_DIR}/cmake/WriteEmbeddedKernels.cmake
    VERBATIM)
  add_library(${target} STATIC ${generated})
  target_include_directories(${target} PUBLIC ${root} PRIVATE ${PROJECT_SOURCE_DIR}/runtime)
  mamba_scan_target(${target})
endfunction()
