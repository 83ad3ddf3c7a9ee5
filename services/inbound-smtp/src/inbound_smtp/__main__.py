from inbound_smtp.main import main

main()
