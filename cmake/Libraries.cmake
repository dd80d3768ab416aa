# The libraries that are installed. Neither shows a symbol that include/mpilora does not declare.

if(NOT DEFINED BUILD_SHARED_LIBS OR BUILD_SHARED_LIBS)
  add_library(mpilora_shared SHARED ${MPILORA_OBJECTS})
  set_target_properties(mpilora_shared PROPERTIES OUTPUT_NAME mpilora EXPORT_NAME mpilora
                                                  VERSION ${PROJECT_VERSION} SOVERSION 0)
  target_link_libraries(mpilora_shared PRIVATE mpilora_dependencies)
  target_link_options(mpilora_shared PRIVATE ${MPILORA_SANITIZERS})
  target_include_directories(mpilora_shared
                             INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
endif()

# An archive keeps hidden symbols visible to whoever links it. So its objects become one, in which
# they are local.
if(NOT DEFINED BUILD_SHARED_LIBS OR NOT BUILD_SHARED_LIBS)
  set(object ${PROJECT_BINARY_DIR}/mpilora-all.o)
  add_custom_command(
    OUTPUT ${object}
    COMMAND ${CMAKE_LINKER} -r -o ${object} --whole-archive $<TARGET_FILE:mpilora_lib>
    COMMAND ${CMAKE_OBJCOPY} --localize-hidden ${object}
    DEPENDS mpilora_lib VERBATIM
    COMMENT "Linking the library's objects into one")
  set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
  add_library(mpilora_static STATIC ${object})
  set_target_properties(mpilora_static PROPERTIES OUTPUT_NAME mpilora LINKER_LANGUAGE C
                                                  EXPORT_NAME static)
  target_link_libraries(mpilora_static PUBLIC mpilora_dependencies)
  target_include_directories(mpilora_static
                             INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
endif()
