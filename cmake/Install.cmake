# What `cmake --install` puts where: the program, the static library, its headers, a CMake package (find_package(mpilora), target mpilora::mpilora)
# and a pkg-config file (pkg-config mpilora).
include(CMakePackageConfigHelpers)

install(TARGETS mpilora RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
include(Documents)
install(TARGETS mpilora_lib mpilora_dependencies EXPORT mpilora ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/mpilora DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/mpilora)
install(EXPORT mpilora NAMESPACE mpilora:: FILE mpiloraTargets.cmake DESTINATION ${package_dir})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/mpiloraConfig.cmake.in ${PROJECT_BINARY_DIR}/mpiloraConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/mpiloraConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/mpiloraConfig.cmake ${PROJECT_BINARY_DIR}/mpiloraConfigVersion.cmake DESTINATION ${package_dir})

# The library is static, so its users link what it stands on: by name where that has a pkg-config file, else by path.
set(MPILORA_PC_REQUIRES jansson yaml-0.1 libpcre2-8 openblas libcrypto)
set(MPILORA_PC_LIBRARIES ${MPI_C_LIBRARIES} ${HDF5_C_LIBRARIES} ${SCALAPACK_LIBRARY} ${DNNL_LIBRARY} ${OpenMP_C_FLAGS} -lm)
if(MPILORA_SANITIZE)
  list(APPEND MPILORA_PC_LIBRARIES -fsanitize=address,undefined)
endif()
set(MPILORA_PC_INCLUDES ${MPI_C_INCLUDE_DIRS})
list(TRANSFORM MPILORA_PC_INCLUDES PREPEND -I)
list(JOIN MPILORA_PC_REQUIRES " " MPILORA_PC_REQUIRES)
list(JOIN MPILORA_PC_LIBRARIES " " MPILORA_PC_LIBRARIES)
list(JOIN MPILORA_PC_INCLUDES " " MPILORA_PC_INCLUDES)
file(RELATIVE_PATH MPILORA_PC_INCLUDEDIR ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(${CMAKE_CURRENT_LIST_DIR}/mpilora.pc.in ${PROJECT_BINARY_DIR}/mpilora.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/mpilora.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
