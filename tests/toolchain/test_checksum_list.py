from toolchain.releases.pinnable import sum_of

A, B = "a" * 64, "b" * 64


def test_a_sum_without_a_name_is_that_of_the_file() -> None:
    assert sum_of(f"{A}\n", "kubelet") == A
    assert sum_of(f"\n {A.upper()} ", "kubelet") == A


def test_the_line_of_the_file_counts_and_no_other() -> None:
    listed = f"{A}  etcd-v3.6.14-linux-amd64.tar.gz\n{B}  etcd-v3.6.14-linux-amd64.tar.gz.asc\n"
    assert sum_of(listed, "etcd-v3.6.14-linux-amd64.tar.gz") == A
    assert sum_of(listed, "etcd-v3.6.14-linux-arm64.tar.gz") is None
    assert sum_of(f"{A}  another\n", "kubelet") is None


def test_a_list_with_a_signature_is_read() -> None:
    listed = f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{A}  runc.amd64\n{B} *runc.arm64\n"
    signed = f"{listed}-----BEGIN PGP SIGNATURE-----\n\niQIzBAEB\n=abcd\n-----END PGP SIGNATURE-----\n"
    assert (sum_of(signed, "runc.amd64"), sum_of(signed, "runc.arm64")) == (A, B)


def test_sums_of_sha1_are_read_with_the_names_that_shasum_writes() -> None:
    assert sum_of(f"{'c' * 40}  ./one.tar.gz\n", "one.tar.gz") == "c" * 40


def test_two_sums_of_one_file_are_none() -> None:
    assert sum_of(f"{A}  file\n{B}  file\n", "file") is None
    assert sum_of(f"{A}  file\n{A}  file\n", "file") == A


def test_other_text_has_no_sum() -> None:
    for text in ("", "<html>Not here</html>", A[:-1] + "g", f"{A}"[:39]):
        assert sum_of(text, "file") is None
