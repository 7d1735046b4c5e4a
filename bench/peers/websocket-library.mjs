// Debian's `ws`, whichever Node runs this; then whatever the module path has.

import { createRequire } from 'node:module'

function load() {
    const require = createRequire(import.meta.url)
    for (const place of ['/usr/share/nodejs/ws', 'ws']) {
        try {
            return { library: require(place), version: require(`${place}/package.json`).version }
        } catch (error) {
            if (error.code !== 'MODULE_NOT_FOUND') throw error
        }
    }
    console.error('there is no module ws; apt-get install node-ws')
    process.exit(1)
}

export const { library, version } = load()
