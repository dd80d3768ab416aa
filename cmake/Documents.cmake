# The man page and the completion for bash, which the program prints of its own tables of options.
set(MPILORA_MANUAL ${PROJECT_BINARY_DIR}/man/mpilora.1)
set(MPILORA_COMPLETION ${PROJECT_BINARY_DIR}/completion/mpilora)
file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/man ${PROJECT_BINARY_DIR}/completion)
add_custom_command(OUTPUT ${MPILORA_MANUAL} ${MPILORA_COMPLETION}
                   COMMAND mpilora help man > ${MPILORA_MANUAL}
                   COMMAND mpilora help completion > ${MPILORA_COMPLETION}
                   DEPENDS mpilora VERBATIM COMMENT "Man page and completion")
add_custom_target(mpilora_documents ALL DEPENDS ${MPILORA_MANUAL} ${MPILORA_COMPLETION})
install(FILES ${MPILORA_MANUAL} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${MPILORA_COMPLETION} DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
