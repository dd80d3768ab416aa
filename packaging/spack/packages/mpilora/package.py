from spack.package import *


class Mpilora(CMakePackage):
    """LoRA fine-tuning of GPT-type language models on CPU clusters over MPI."""

    # There is no published archive yet: `spack dev-build` or `spack develop` builds a checkout.
    version("develop")

    variant("shared", default=True, description="The shared library")
    variant("static", default=True, description="The static library")
    variant("onednn", default=True, description="oneDNN's products as further backends")
    variant("scalapack", default=True, description="Singular values of whole weights")
    conflicts("~shared ~static", msg="one library at the least")

    depends_on("c", type="build")
    depends_on("cmake@3.20:", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("mpi@3:")
    depends_on("hdf5@1.10:")
    depends_on("blas")
    depends_on("lapack")
    depends_on("openssl@3:")
    depends_on("jansson@2.10:")
    depends_on("libyaml")
    depends_on("pcre2")
    depends_on("utf8proc")
    depends_on("onednn@2.6: cpu_runtime=omp", when="+onednn")
    depends_on("scalapack", when="+scalapack")
    depends_on("cmocka", type="test")
    depends_on("python@3.9:", type=("run", "test"))
    depends_on("py-jinja2@3.1:", type=("run", "test"))

    def cmake_args(self):
        spec = self.spec
        args = [
            self.define("BUILD_TESTING", self.run_tests),
            self.define("MPILORA_ONEDNN", "ON" if "+onednn" in spec else "OFF"),
            self.define("MPILORA_SCALAPACK", "ON" if "+scalapack" in spec else "OFF"),
            self.define("MPI_C_COMPILER", spec["mpi"].mpicc),
            self.define("BLAS_LIBRARIES", spec["blas"].libs.joined(";")),
            self.define("LAPACK_LIBRARIES", spec["lapack"].libs.joined(";")),
        ]
        if "+scalapack" in spec:
            args.append(self.define("SCALAPACK_LIBRARY", spec["scalapack"].libs.joined(";")))
        if "+shared" not in spec or "+static" not in spec:
            args.append(self.define("BUILD_SHARED_LIBS", "+shared" in spec))
        return args

    def check(self):
        with working_dir(self.build_directory):
            ctest("-L", "quick", "--output-on-failure")
