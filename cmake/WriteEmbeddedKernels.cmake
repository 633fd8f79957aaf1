# Run by EmbedKernels.cmake: writes the C++ file that holds the kernel text. Bytes are written as a numeric array,
# so that no compiler's limit on string literals applies.
set(content "// Generated from kernels/; do not edit.\n#include \"jit/embedded_kernels.h\"\n\nnamespace mamba_scan::jit {\nnamespace {\n")
set(table "")
set(index 0)
string(REPLACE "|" ";" files "${FILES}")
foreach(file IN LISTS files)
  file(READ ${ROOT}/${file} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(REGEX REPLACE "(................................................................................)" "\\1\n" bytes "${bytes}")
  string(APPEND content "const unsigned char kFile${index}[] = {\n${bytes}0x00};\n")
  string(APPEND table "    {\"${file}\", {reinterpret_cast<const char*>(kFile${index}), sizeof(kFile${index}) - 1}},\n")
  math(EXPR index "${index} + 1")
endforeach()
string(APPEND content "const EmbeddedFile kFiles[] = {\n${table}};\n}  // namespace\n\n"
  "std::span<const EmbeddedFile> embedded_kernels() { return kFiles; }\n\n}  // namespace mamba_scan::jit\n")
file(WRITE ${OUTPUT} "${content}")
