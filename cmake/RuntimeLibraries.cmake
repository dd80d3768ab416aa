# Which shared libraries a library loads when it runs, by ldd: two OpenMP libraries, or two MPIs, in
# one program are found here and not by a hang. A static library loads nothing of its own, and where
# there is no ldd nothing is found.
find_program(MPILORA_LDD ldd)
mark_as_advanced(MPILORA_LDD)

# The real paths of all that `ARGN` load, themselves included, in a program that has loaded the
# chosen BLAS before.
function(mpilora_loaded_libraries out)
  set(found "")
  set(folders "$ENV{LD_LIBRARY_PATH}")
  foreach(library ${BLAS_LIBRARIES})
    get_filename_component(folder "${library}" DIRECTORY)
    set(folders "${folder}:${folders}")
  endforeach()
  foreach(library ${ARGN})
    if(MPILORA_LDD AND IS_ABSOLUTE "${library}" AND library MATCHES "\\.so")
      file(REAL_PATH "${library}" real)
      execute_process(COMMAND ${CMAKE_COMMAND} -E env LD_LIBRARY_PATH=${folders}
                              ${MPILORA_LDD} ${library}
                      OUTPUT_VARIABLE lines ERROR_QUIET)
      string(REGEX MATCHALL "/[^ \n]+" paths "${lines}")
      list(APPEND found ${real})
      foreach(path ${paths})
        file(REAL_PATH "${path}" real)
        list(APPEND found ${real})
      endforeach()
    endif()
  endforeach()
  list(REMOVE_DUPLICATES found)
  set(${out} "${found}" PARENT_SCOPE)
endfunction()

# The OpenMP library that `ARGN` load beside the compiler's own, MPILORA_OPENMP; empty: none.
function(mpilora_other_openmp out)
  set(runtime "/lib(gomp|omp|iomp5)[^/]*$")
  mpilora_loaded_libraries(own ${OpenMP_C_LIBRARIES})
  list(FILTER own INCLUDE REGEX "${runtime}")
  mpilora_loaded_libraries(loaded ${ARGN})
  list(FILTER loaded INCLUDE REGEX "${runtime}")
  list(REMOVE_ITEM loaded ${own})
  set(${out} "${loaded}" PARENT_SCOPE)
  set(MPILORA_OPENMP "${own}" PARENT_SCOPE)
endfunction()

# False where `ARGN` load an MPI, and it is not the one that was found.
function(mpilora_uses_this_mpi out)
  mpilora_loaded_libraries(own ${MPI_C_LIBRARIES})
  mpilora_loaded_libraries(loaded ${ARGN})
  list(FILTER loaded INCLUDE REGEX "/libmpi(ch)?[.][^/]*$")
  set(fits TRUE)
  foreach(library ${loaded})
    if(NOT library IN_LIST own)
      set(fits FALSE)
    endif()
  endforeach()
  set(${out} ${fits} PARENT_SCOPE)
endfunction()

# "openmpi" or "mpich" (whose descendants say so too), as Debian's packages have it.
function(mpilora_mpi_name out)
  include(CheckSymbolExists)
  set(CMAKE_REQUIRED_INCLUDES ${MPI_C_INCLUDE_DIRS})
  check_symbol_exists(OPEN_MPI mpi.h MPILORA_MPI_IS_OPENMPI)
  if(MPILORA_MPI_IS_OPENMPI)
    set(${out} openmpi PARENT_SCOPE)
  else()
    set(${out} mpich PARENT_SCOPE)
  endif()
endfunction()
