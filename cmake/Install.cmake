# What `cmake --install` puts where: the program, the libraries, the headers, a CMake package
# (find_package(mpilora), target mpilora::mpilora) and a pkg-config file (pkg-config mpilora).
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/mpilora)

install(TARGETS mpilora RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT program)
include(Documents)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/mpilora ${PROJECT_BINARY_DIR}/include/mpilora
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development FILES_MATCHING PATTERN "*.h")

# ---- the CMake package: two sets of targets, since the static one needs everything it stands on ----

if(TARGET mpilora_shared)
  install(TARGETS mpilora_shared EXPORT mpilora
          LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library
                  NAMELINK_COMPONENT development)
  install(EXPORT mpilora NAMESPACE mpilora:: FILE mpiloraTargets.cmake DESTINATION ${package_dir}
          COMPONENT development)
endif()
if(TARGET mpilora_static)
  install(TARGETS mpilora_static mpilora_dependencies EXPORT mpiloraStatic
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
  install(EXPORT mpiloraStatic NAMESPACE mpilora:: FILE mpiloraStaticTargets.cmake
          DESTINATION ${package_dir} COMPONENT development)
endif()
configure_package_config_file(
  ${CMAKE_CURRENT_LIST_DIR}/mpiloraConfig.cmake.in ${PROJECT_BINARY_DIR}/mpiloraConfig.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/mpiloraConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/mpiloraConfig.cmake
              ${PROJECT_BINARY_DIR}/mpiloraConfigVersion.cmake
        DESTINATION ${package_dir} COMPONENT development)

# ---- the pkg-config file ---------------------------------------------------------------------------

# What the library stands on: by name where that has a pkg-config file, else by path. It is private
# to a shared library; where there is only the static one, every user needs it.
set(requires jansson yaml-0.1 libpcre2-8 libutf8proc libcrypto)
set(libraries ${MPI_C_LIBRARIES} ${HDF5_C_LIBRARIES} ${OpenMP_C_FLAGS})
if(MPILORA_HAS_SCALAPACK)
  list(APPEND libraries ${SCALAPACK_LIBRARY})
endif()
if(MPILORA_HAS_ONEDNN)
  list(APPEND libraries ${DNNL_LIBRARY})
endif()
list(APPEND libraries ${LAPACK_LIBRARIES} ${BLAS_LIBRARIES} -ldl -lm)
list(APPEND libraries ${MPILORA_SANITIZERS})
list(JOIN requires " " requires)
list(JOIN libraries " " libraries)
set(MPILORA_PC_LIBS "Libs: -L\${libdir} -lmpilora")
if(TARGET mpilora_shared)
  set(MPILORA_PC_REQUIRES "Requires.private: ${requires}")
  string(APPEND MPILORA_PC_LIBS "\nLibs.private: ${libraries}")
else()
  set(MPILORA_PC_REQUIRES "Requires: ${requires}")
  string(APPEND MPILORA_PC_LIBS " ${libraries}")
endif()
file(RELATIVE_PATH MPILORA_PC_INCLUDEDIR ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig
     ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(${CMAKE_CURRENT_LIST_DIR}/mpilora.pc.in ${PROJECT_BINARY_DIR}/mpilora.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/mpilora.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig
        COMPONENT development)
