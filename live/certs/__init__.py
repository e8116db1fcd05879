"""`./hardway certs`: the certificates of a lab, by its state and by the files of its machines. It changes nothing."""
