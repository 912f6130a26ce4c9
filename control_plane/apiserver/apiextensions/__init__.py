"""Custom resources: definitions, the resources they make this server serve, their schemas and rules.

`definitions` keeps what is served in step with what is defined; `acceptance` says what is wrong with a definition and
what its status is, and `versions` with its schemas, by `structural`, `defaulting` and `rules` (their expressions);
`custom_resource` says what is wrong with an object, by `schema` and `rules`. Objects are converted between versions in
`apiserver.kinds`: by their apiVersion alone, or by what a webhook is known to make of them; `forms` asks it.

Owns CustomResourceDefinitions' effects, and defaulting, pruning and validation by their OpenAPI v3 schemas. Does not
own how objects are written and read, which is the same for all kinds (`registry`), nor the language of rules (`cel`).
"""
