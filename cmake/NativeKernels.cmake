# src/kernels/native/, src/kernels/rounded/ and src/kernels/narrow/: the same sources compiled once for each instruction set, under names that end
# in the set's name. Which one runs is decided when the program starts, so one build serves every
# processor. MPILORA_OBJECTS: all objects of the library, these among them.
set(MPILORA_OBJECTS $<TARGET_OBJECTS:mpilora_objects>)
get_filename_component(root ${CMAKE_CURRENT_LIST_DIR} DIRECTORY) # also of tests/arm
file(GLOB MPILORA_NATIVE_SOURCES CONFIGURE_DEPENDS ${root}/src/kernels/native/*.c)
file(GLOB MPILORA_ROUNDED_SOURCES CONFIGURE_DEPENDS ${root}/src/kernels/rounded/*.c)
file(GLOB MPILORA_NARROW_SOURCES CONFIGURE_DEPENDS ${root}/src/kernels/narrow/*.c)
# Of native/, compiled for these as well: attention whose blocks are multiplied in bf16 (narrow/operands.h).
foreach(file attention_backward attention_forward attention_relative block_product)
  list(APPEND MPILORA_NARROW_SOURCES ${root}/src/kernels/native/${file}.c)
endforeach()

# Blocks have the bytes of other programs, which round every product.
set_source_files_properties(${root}/src/kernels/native/quantise_plain.c ${root}/src/kernels/native/quantise_sixteen.c ${root}/src/kernels/native/quantise_search.c PROPERTIES
  COMPILE_OPTIONS "-ffp-contract=off;-fno-trapping-math;-fno-math-errno;-Wno-psabi")

# What a gradient goes through says itself where a product is rounded (native.h, ml_fma): its bits do not depend on the compiler.
foreach(file attention_backward attention_dots attention_forward block_product exponentials norms product query_key_norms vectors)
  set_source_files_properties(${root}/src/kernels/native/${file}.c PROPERTIES COMPILE_OPTIONS -ffp-contract=off)
endforeach()
# clang would have it said that vectors wider than the registers go from function to function, which they do within the file only.
set_source_files_properties(${root}/src/kernels/native/product.c PROPERTIES COMPILE_OPTIONS "-ffp-contract=off;-Wno-psabi")

function(mpilora_kernel_objects target folder name)
  string(TOUPPER ${folder} sources)
  add_library(${target} OBJECT ${MPILORA_${sources}_SOURCES})
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_link_libraries(${target} PRIVATE mpilora_flags OpenMP::OpenMP_C)
  # Where a variable is at each instruction takes a quarter of the compiler's time here; lines stay.
  target_compile_options(${target} PRIVATE -O3 -ffp-contract=fast -fno-var-tracking ${ARGN})
  target_compile_definitions(${target} PRIVATE ML_NATIVE_NAME=${name})
endfunction()

function(mpilora_kernels folder name)
  set(target mpilora_${folder}_${name})
  mpilora_kernel_objects(${target} ${folder} ${name} ${ARGN})
  set(MPILORA_OBJECTS ${MPILORA_OBJECTS} $<TARGET_OBJECTS:${target}> PARENT_SCOPE)
endfunction()

set(avx2 -mavx2 -mfma -mf16c)
set(avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512)
mpilora_kernels(native generic)
mpilora_kernels(rounded generic)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
  target_compile_definitions(mpilora_objects PRIVATE MPILORA_NATIVE_X86)
  mpilora_kernels(native avx2 ${avx2})
  mpilora_kernels(native avx512 ${avx512})
  mpilora_kernels(rounded avx2 ${avx2})
  mpilora_kernels(rounded avx512vnni ${avx512} -mavx512vnni)
  mpilora_kernels(narrow avx512bf16 ${avx512} -mavx512bf16)
  mpilora_kernels(narrow amx ${avx512} -mavx512bf16 -mamx-tile -mamx-bf16)
endif()

# For tests on processors without AVX-512 and AMX: what of native/ and narrow/ is written for them, made of AVX2 there
# (tests/simde/instructions.h, narrow.h). Built where it is linked, and native/ not optimised: gcc takes minutes for register tiles
# that do not fit into the registers.
find_path(MPILORA_SIMDE_INCLUDE_DIR simde/x86/avx512.h)
mark_as_advanced(MPILORA_SIMDE_INCLUDE_DIR)
function(mpilora_simulated_objects target folder name header)
  mpilora_kernel_objects(${target} ${folder} ${name} ${avx2} -g0 -flax-vector-conversions -Wno-psabi
                         -include ${root}/tests/simde/${header} ${ARGN})
  set_target_properties(${target} PROPERTIES EXCLUDE_FROM_ALL TRUE)
  target_include_directories(${target} SYSTEM PRIVATE ${MPILORA_SIMDE_INCLUDE_DIR})
endfunction()
if(MPILORA_SIMDE_INCLUDE_DIR AND CMAKE_C_COMPILER_ID STREQUAL "GNU" AND TARGET mpilora_native_avx512)
  mpilora_simulated_objects(mpilora_simulated native avx512 instructions.h -O0)
  mpilora_simulated_objects(mpilora_simulated_narrow_avx512bf16 narrow avx512bf16 narrow.h -O2)
  mpilora_simulated_objects(mpilora_simulated_narrow_amx narrow amx narrow.h -O2 -DMPILORA_SIMULATES_TILES)
endif()
