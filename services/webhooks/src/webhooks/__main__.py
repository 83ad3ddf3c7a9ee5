from webhooks.main import main

main()
