# The libraries that mpilora stands on, gathered in one interface target, mpilora_dependencies.
#
# Needed: MPI, OpenMP, HDF5, OpenSSL, jansson, libyaml, PCRE2, utf8proc, BLAS and LAPACK (any that
# CMake's modules find; OpenBLAS is looked for first). Used where they are found: oneDNN (2.x and
# 3.x) and ScaLAPACK. Each of the two has an option: AUTO, ON (its absence is an error) or OFF.
include(RuntimeLibraries)
set(MPILORA_ONEDNN AUTO CACHE STRING "oneDNN's products as further backends: AUTO, ON or OFF")
set(MPILORA_SCALAPACK AUTO CACHE STRING
                           "Singular values of whole weights by ScaLAPACK: AUTO, ON or OFF")
set_property(CACHE MPILORA_ONEDNN MPILORA_SCALAPACK PROPERTY STRINGS AUTO ON OFF)

# What an option of three values asks for is not there: an error under ON, else one line.
function(mpilora_is_missing option text)
  if(${option} STREQUAL "ON")
    message(FATAL_ERROR "${option} is ON, but ${text}")
  endif()
  message(STATUS "${option}: ${text}")
endfunction()

# ---- MPI, OpenMP and what everything needs -------------------------------------------------------

# Debian keeps several MPIs apart by a suffix: mpicc.mpich belongs to mpiexec.mpich.
if(MPI_C_COMPILER MATCHES "mpicc\\.([a-z]+)$")
  find_program(MPIEXEC_EXECUTABLE mpiexec.${CMAKE_MATCH_1})
endif()
find_package(MPI REQUIRED COMPONENTS C)
find_package(OpenMP REQUIRED COMPONENTS C)
find_package(HDF5 REQUIRED COMPONENTS C)
find_package(OpenSSL REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(YAML REQUIRED IMPORTED_TARGET yaml-0.1)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)

mpilora_uses_this_mpi(hdf5_fits ${HDF5_C_LIBRARIES})
if(NOT hdf5_fits)
  message(FATAL_ERROR "HDF5 (${HDF5_C_LIBRARIES}) was built for another MPI than ${MPI_C_COMPILER}: "
                      "choose one for this MPI, or a serial one, by -DHDF5_ROOT=…")
endif()

# ---- BLAS and LAPACK -----------------------------------------------------------------------------

set(BLA_SIZEOF_INTEGER 4) # our calls pass int
if(BLA_VENDOR OR DEFINED ENV{BLA_VENDOR} OR BLAS_LIBRARIES)
  set(blas_is_chosen TRUE)
else()
  set(blas_is_chosen FALSE)
  set(BLA_VENDOR OpenBLAS)
  find_package(BLAS QUIET)
  if(NOT BLAS_FOUND)
    unset(BLA_VENDOR)
  endif()
endif()
find_package(BLAS REQUIRED)

# A BLAS with threads of another OpenMP library than the compiler's would compete with ours.
mpilora_other_openmp(other ${BLAS_LIBRARIES})
if(other AND NOT blas_is_chosen)
  find_library(MPILORA_SERIAL_OPENBLAS openblas PATH_SUFFIXES openblas-serial)
  if(MPILORA_SERIAL_OPENBLAS MATCHES "serial")
    message(STATUS "OpenBLAS without threads is taken, because ${BLAS_LIBRARIES} loads ${other} "
                   "beside ${MPILORA_OPENMP}: ${MPILORA_SERIAL_OPENBLAS}")
    # ScaLAPACK asks for libblas and liblapack by these names: linked here, they are loaded from
    # the same folder, and no second OpenBLAS is.
    get_filename_component(folder ${MPILORA_SERIAL_OPENBLAS} DIRECTORY)
    set(BLAS_LIBRARIES ${MPILORA_SERIAL_OPENBLAS} ${folder}/libblas.so)
    set(LAPACK_LIBRARIES ${folder}/liblapack.so)
    set(other "")
  endif()
endif()
if(other)
  message(WARNING "two OpenMP libraries: ${BLAS_LIBRARIES} loads ${other}, this compiler's is "
                  "${MPILORA_OPENMP}. Their threads compete, and a debugger or a sanitizer may find "
                  "faults. Choose a BLAS without threads (Debian: libopenblas-serial-dev; elsewhere "
                  "-DBLAS_LIBRARIES=… -DLAPACK_LIBRARIES=…), or compile with gcc.")
endif()
if(NOT LAPACK_LIBRARIES)
  find_package(LAPACK REQUIRED)
endif()

# ---- oneDNN --------------------------------------------------------------------------------------

set(MPILORA_HAS_ONEDNN FALSE)
if(MPILORA_ONEDNN)
  find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.h)
  find_library(DNNL_LIBRARY dnnl)
  mpilora_other_openmp(other ${DNNL_LIBRARY})
  if(NOT DNNL_INCLUDE_DIR OR NOT DNNL_LIBRARY)
    mpilora_is_missing(MPILORA_ONEDNN "oneDNN is not found (Debian: libdnnl-dev; elsewhere "
                                      "-DDNNL_INCLUDE_DIR=… -DDNNL_LIBRARY=…)")
  elseif(other AND MPILORA_ONEDNN STREQUAL "AUTO")
    message(STATUS "MPILORA_ONEDNN: left out, because ${DNNL_LIBRARY} loads ${other} beside this "
                   "compiler's ${MPILORA_OPENMP}")
  else()
    if(other)
      message(WARNING "two OpenMP libraries: ${DNNL_LIBRARY} loads ${other}, this compiler's is "
                      "${MPILORA_OPENMP}; their threads compete")
    endif()
    set(MPILORA_HAS_ONEDNN TRUE)
  endif()
endif()

# ---- the launcher --------------------------------------------------------------------------------

# What scale, compare and bench machine start ranks with: mpirun, or mpirun.mpich beside another MPI.
mpilora_mpi_name(mpi_name)
get_filename_component(MPILORA_MPIRUN "${MPIEXEC_EXECUTABLE}" NAME)
string(REPLACE mpiexec mpirun MPILORA_MPIRUN "${MPILORA_MPIRUN}")
if(mpi_name STREQUAL "openmpi")
  string(APPEND MPILORA_MPIRUN " --oversubscribe --bind-to none")
endif()

# ---- ScaLAPACK -----------------------------------------------------------------------------------

# It is found by the name that belongs to this MPI: Debian keeps one library for each.
set(MPILORA_HAS_SCALAPACK FALSE)
if(MPILORA_SCALAPACK)
  find_library(SCALAPACK_LIBRARY NAMES scalapack-${mpi_name} scalapack)
  mpilora_uses_this_mpi(scalapack_fits ${SCALAPACK_LIBRARY})
  mpilora_other_openmp(other ${SCALAPACK_LIBRARY})
  if(NOT SCALAPACK_LIBRARY)
    mpilora_is_missing(MPILORA_SCALAPACK "ScaLAPACK is not found (Debian: "
                                         "libscalapack-${mpi_name}-dev; elsewhere "
                                         "-DSCALAPACK_LIBRARY=…)")
  elseif(NOT scalapack_fits)
    mpilora_is_missing(MPILORA_SCALAPACK "${SCALAPACK_LIBRARY} was built for another MPI")
  elseif(other AND MPILORA_SCALAPACK STREQUAL "AUTO")
    message(STATUS "MPILORA_SCALAPACK: left out, because ${SCALAPACK_LIBRARY} loads ${other} "
                   "beside this compiler's ${MPILORA_OPENMP}")
  else()
    set(MPILORA_HAS_SCALAPACK TRUE)
  endif()
endif()

# ---- all together --------------------------------------------------------------------------------

add_library(mpilora_dependencies INTERFACE)
target_include_directories(mpilora_dependencies SYSTEM INTERFACE ${HDF5_C_INCLUDE_DIRS})
target_link_libraries(mpilora_dependencies
                      INTERFACE MPI::MPI_C OpenMP::OpenMP_C ${HDF5_C_LIBRARIES} OpenSSL::Crypto
                                PkgConfig::JANSSON PkgConfig::YAML PkgConfig::PCRE2
                                PkgConfig::UTF8PROC)
if(MPILORA_HAS_SCALAPACK)
  target_link_libraries(mpilora_dependencies INTERFACE ${SCALAPACK_LIBRARY})
endif()
if(MPILORA_HAS_ONEDNN)
  target_include_directories(mpilora_dependencies SYSTEM INTERFACE ${DNNL_INCLUDE_DIR})
  target_link_libraries(mpilora_dependencies INTERFACE ${DNNL_LIBRARY})
endif()
target_link_libraries(mpilora_dependencies INTERFACE ${LAPACK_LIBRARIES} ${BLAS_LIBRARIES}
                                                     ${CMAKE_DL_LIBS} m)
