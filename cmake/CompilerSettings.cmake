# mamba_scan_target(<target>): warnings and platform settings every target of ours shares.
function(mamba_scan_target target)
  if(MSVC)
    target_compile_options(${target} PRIVATE /W4 /utf-8 /permissive- /EHsc)
    target_compile_definitions(${target} PRIVATE NOMINMAX WIN32_LEAN_AND_MEAN UNICODE _UNICODE)
  else()
    target_compile_options(${target} PRIVATE -Wall -Wextra)
  endif()
  if(MINGW)
    target_compile_definitions(${target} PRIVATE NOMINMAX WIN32_LEAN_AND_MEAN UNICODE _UNICODE _WIN32_WINNT=0x0A00)
    # GCC does not align the Windows stack for 32-byte vectors (GCC bug 54412): make vector moves tolerate it.
    target_compile_options(${target} PRIVATE -Wa,-muse-unaligned-vector-move)
    # The Windows artefacts carry their C++ runtime: no DLL of the compiler's is needed.
    target_link_options(${target} PRIVATE -static -static-libgcc -static-libstdc++)
  endif()
endfunction()
